"""Studies: benches of variants of the recipe's method; ``report/studies`` renders their pages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from multidelete.bench.grid import Study, Variant
from multidelete.methods import Method
from multidelete.methods.base import LossMethod
from multidelete.recipe import Recipe, sentences
from multidelete.runs.groups import TERMS
from multidelete.utils.errors import InputError

WITHOUT = {"full": None, "without-md": "alpha", "without-ukr": "gamma", "without-mkr": "beta"}
GRID = (0.25, 0.5, 2.0, 4.0)  # factors of the recipe's weight
PARTS = 5  # sequential requests
MIN_EVALUATIONS = 20  # minimum number of checkpoints in studies that plot them


def ablation(recipe: Recipe) -> Mapping[str, Variant]:
    """Full loss, and without each of its terms; scope fusion has no UKR term."""
    left_out = {"gamma"} if recipe.method.scope == "fusion" else set()
    return {
        name: Variant(_with(recipe.method, {key: 0.0} if key else {}))
        for name, key in WITHOUT.items()
        if key not in left_out
    }


def scopes(recipe: Recipe) -> Mapping[str, Variant]:
    """Scopes all and fusion, with the settings that the recipe has for each."""
    method = recipe.method
    wanted = {scope: f"{method.name}-{scope}" for scope in ("all", "fusion")}
    missing = [scope for scope in wanted if scope not in method.scopes]
    if missing:
        raise InputError(
            f"the study 'scopes' compares all and fusion; {method.name} has the scopes {' and '.join(method.scopes)}"
        )
    given: dict[str, Method] = {
        each.scope: each for each in (*reversed(recipe.compare), method) if each.name == method.name
    }
    return {name: Variant(_with_evaluations(given.get(scope, method), scope=scope)) for scope, name in wanted.items()}


def sizes(recipe: Recipe) -> Mapping[str, Variant]:
    """The recipe's method; the size of D_f varies."""
    return {f"{recipe.method.name}-{recipe.method.scope}": Variant(recipe.method)}


def sensitivity(recipe: Recipe) -> Mapping[str, Variant]:
    """Variants with a changed weight of one loss term at a time."""
    result = {"as-it-is": Variant(recipe.method)}
    for key in TERMS:
        if key == "gamma" and recipe.method.scope == "fusion":
            continue  # there is no such term
        own = getattr(recipe.method, key) or 1.0
        result |= {f"{key}-{each * own:g}": Variant(_with(recipe.method, {key: each * own})) for each in GRID}
    return result


def sequential(recipe: Recipe) -> Mapping[str, Variant]:
    """The request at once, and in sequential parts, each applied to the model that the previous part produced."""
    if recipe.forget.part is not None:
        raise InputError("the study 'sequential' cuts the request into parts; leave out forget.part")
    result = {"at-once": Variant(recipe.method)}
    for step in range(1, PARTS + 1):
        # Each step has another original and would train its own shadow and reference models.
        changes = {
            "forget": {"part": [step, PARTS]},
            "retrain": False,
            "membership": {"shadow": False, "references": 0, "u_lira": []},
        }
        result[f"step{step}"] = Variant(recipe.method, changes, f"step{step - 1}" if step > 1 else None)
    return result


def stop(recipe: Recipe) -> Mapping[str, Variant]:
    """Both stopping rules, with the same number of evaluations."""
    return {rule: Variant(_with_evaluations(recipe.method, stop=rule)) for rule in ("lowest", "unseen")}


STUDIES: dict[str, Study] = {
    study.name: study
    for study in (
        Study("ablation", ablation, "multidelete"),
        Study("scopes", scopes),
        Study("sizes", sizes, fractions=(0.01, 0.03, 0.05, 0.10, 0.15)),
        Study("sensitivity", sensitivity, "multidelete"),
        Study("sequential", sequential),
        Study("stop", stop, "multidelete"),
    )
}


def _with_evaluations(method: Method, **changes: Any) -> Method:
    """Method with these settings and at least ``MIN_EVALUATIONS`` evaluations."""
    if isinstance(method, LossMethod):
        changes["evaluations"] = max(method.evaluations, MIN_EVALUATIONS)
    return _with(method, changes)


def _with(method: Method, changes: Mapping[str, Any]) -> Method:
    given = {key: getattr(method, key) for key in method.model_fields_set}
    try:
        return type(method).model_validate({**given, **changes})
    except ValidationError as error:
        shown = ", ".join(f"{key} = {value}" for key, value in changes.items())
        why = "; ".join(sentences(error, type(method), method.name, f"method '{method.name}'"))
        raise InputError(f"{method.name} with {shown}: {why}") from error
