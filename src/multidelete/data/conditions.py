"""Conditions on metadata that select pairs: parsed by Python's parser, never run as code."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from multidelete.data.dataset import Dataset, Rows
from multidelete.data.examples import Example, Value
from multidelete.utils.errors import InputError, did_you_mean

COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda value, among: value in among,
    ast.NotIn: lambda value, among: value not in among,
}
EXAMPLE = "expected a condition such as 'licence == \"NC\" and year < 2015'"
OWN = ("id", "text", "label", "group", "image")  # facts of every pair

Fact = Callable[[Example, int], Value]


def matching(dataset: Dataset, condition: str) -> Rows:
    """Text rows of the training pairs that fulfil a condition.

    Names are those of the metadata, and id, text, label, group and image. A value that looks like a number is compared
    with numbers as one; a pair without the value fulfils no comparison.

    Args:
        dataset: The dataset.
        condition: Comparisons (``==``, ``!=``, ``<``, ``<=``, ``>``, ``>=``, ``in``, ``not in``), joined by ``and``,
            ``or`` and ``not``.

    Raises:
        InputError: It is no condition, has an unknown name, or no pair fulfils it.
    """
    try:
        tree = ast.parse(condition.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise InputError(f"the condition {condition!r} cannot be read; {EXAMPLE}") from error
    test = _test(tree, set(_metadata(dataset)), condition)
    rows = _fulfilling(dataset, test)
    if not len(rows):
        raise InputError(f"no training pair fulfils the condition {condition!r}")
    return rows


def groups_of(dataset: Dataset, given: str | Sequence[str]) -> Rows:
    """Text rows of the training pairs of groups.

    Args:
        dataset: The dataset.
        given: ``NAME=VALUE`` for a value of the metadata, or ``VALUE`` for a group; or several.

    Raises:
        InputError: There is no such name, or no training pair has the value.
    """
    found: dict[int, None] = {}
    for each in [given] if isinstance(given, str) else given:
        name, separator, value = each.partition("=")
        name, value = (name.strip(), value.strip()) if separator else ("group", each.strip())
        known = {"group", "label", *_metadata(dataset)}
        if name not in known:
            hint = did_you_mean(name, known)
            raise InputError(f"the data have no {name!r}; expected one of {', '.join(sorted(known))}{hint}")
        fact = _fact_of(name)
        rows = _fulfilling(dataset, partial(_has, fact, value))
        if not len(rows):
            values = {str(fact(example, 0)) for example in dataset.examples if example.split == "train"}
            hint = did_you_mean(value, values)
            raise InputError(f"no training pair has {name} = {value!r}{hint}")
        found |= dict.fromkeys(rows.tolist())
    return np.array(list(found), dtype=np.int64)


def _metadata(dataset: Dataset) -> dict[str, None]:
    return dict.fromkeys(name for example in dataset.examples for name in example.metadata)


def _fulfilling(dataset: Dataset, test: Callable[[Example, int], bool]) -> Rows:
    rows = [
        int(dataset.text_starts[row]) + number
        for row in dataset.rows("train").tolist()
        for number in range(int(dataset.text_counts[row]))
        if test(dataset.examples[row], number)
    ]
    return np.array(rows, dtype=np.int64)


def _fact_of(name: str) -> Fact:
    if name == "text":
        return lambda example, number: example.texts[number]
    if name == "label":
        return lambda example, number: example.labels[number] if example.labels else None
    if name == "image":
        return lambda example, number: example.images[0] if example.images else None
    if name in ("id", "group"):
        return lambda example, number: getattr(example, name) or example.fact(name, number)
    return lambda example, number: example.fact(name, number)


def _test(node: ast.expr, known: set[str], condition: str) -> Callable[[Example, int], bool]:
    if isinstance(node, ast.BoolOp):
        parts = [_test(each, known, condition) for each in node.values]
        combine = all if isinstance(node.op, ast.And) else any
        return lambda example, number: combine(part(example, number) for part in parts)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        inner = _test(node.operand, known, condition)
        return lambda example, number: not inner(example, number)
    if isinstance(node, ast.Compare):
        sides = [_value(each, known, condition) for each in (node.left, *node.comparators)]
        checks = [_comparison(each, condition) for each in node.ops]
        return lambda example, number: all(
            _compare(check, left(example, number), right(example, number))
            for check, left, right in zip(checks, sides[:-1], sides[1:], strict=True)
        )
    raise InputError(f"the condition {condition!r} cannot be read at {ast.unparse(node)!r}; {EXAMPLE}")


def _comparison(node: ast.cmpop, condition: str) -> Callable[[Any, Any], bool]:
    if type(node) not in COMPARISONS:
        raise InputError(f"the condition {condition!r} compares with 'is'; use == or !=")
    return COMPARISONS[type(node)]


def _value(node: ast.expr, known: set[str], condition: str) -> Callable[[Example, int], Any]:
    if isinstance(node, ast.Name):
        if node.id not in known | set(OWN):
            names = ", ".join(sorted(known | set(OWN)))
            raise InputError(
                f"the condition {condition!r} names {node.id!r}, which the data do not have; expected one of {names}"
                f"{did_you_mean(node.id, known)}"
            )
        return _fact_of(node.id)
    try:
        constant = ast.literal_eval(node)
    except (ValueError, TypeError, MemoryError, RecursionError) as error:
        raise InputError(f"the condition {condition!r} cannot be read at {ast.unparse(node)!r}; {EXAMPLE}") from error
    return lambda example, number: constant


def _compare(check: Callable[[Any, Any], bool], left: Any, right: Any) -> bool:
    """A comparison; a missing value or one of another kind fulfils none."""
    if left is None or right is None:
        return False
    if isinstance(left, str) and isinstance(right, int | float):
        left = _number(left)
    elif isinstance(right, str) and isinstance(left, int | float):
        right = _number(right)
    elif isinstance(right, list | tuple | set) and isinstance(left, str) and not any(isinstance(x, str) for x in right):
        left = _number(left)
    try:
        return left is not None and right is not None and bool(check(left, right))
    except TypeError:
        return False


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _has(fact: Fact, wanted: str, example: Example, number: int) -> bool:
    value = fact(example, number)
    if value is None:
        return False
    return str(value) == wanted or (isinstance(value, int | float) and _number(wanted) == value)
