"""The cells of a bench: methods × scopes × sizes × seeds on one task, each a run that can be started by itself."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from multidelete.data.requests import Request
from multidelete.methods import METHODS, Method, Retrain
from multidelete.models.base import read_config
from multidelete.pipeline import check_splits, identity
from multidelete.recipe import Recipe, load, sentences
from multidelete.report.bench import CELLS, GRID_FILE, study_of
from multidelete.report.tables import BASELINES
from multidelete.runs.record import RESULTS_FILE, check_same, check_writable
from multidelete.utils.errors import InputError

RETRAIN = "retrain-all"  # the variant that stands in every grid


@dataclass(frozen=True)
class Cell:
    """One run of the grid.

    Args:
        name: Of its folder.
        path: The recipe.
        words: What this cell sets in it, as ``key=value``.
        out: Its folder.
        after: The cell that trains an original or a Retrain that this one needs too.
        row: What is known of its row in ``results.json`` before it has run.
        variant: What it is one size and one seed of.
    """

    name: str
    path: str
    words: tuple[str, ...]
    out: str
    after: str | None
    row: dict[str, Any]
    variant: str = ""

    @property
    def command(self) -> str:
        """The command that runs this cell alone, anywhere."""
        return shlex.join(["multidelete", "unlearn", self.path, *self.words, "--out", self.out, "--resume"])

    @property
    def finished(self) -> bool:
        """Whether it has run."""
        return (Path(self.out) / RESULTS_FILE).is_file()


@dataclass(frozen=True)
class Variant:
    """A method with its settings, of which the grid has a cell for each size and seed.

    Args:
        method: The two.
        words: What else its cells set in the recipe.
        follows: The variant whose unlearned model it starts from, in the place of the original.
    """

    method: Method
    words: tuple[str, ...] = ()
    follows: str | None = None


@dataclass(frozen=True)
class Study:
    """A bench of variants of one method.

    Args:
        name: Its name.
        variants: What a recipe makes of it, by name.
        method: The method that it is about; the recipe's, whatever it is, where none is named.
        fractions: Sizes of D_f as shares; by default the recipe's request.
    """

    name: str
    variants: Callable[[Recipe], Mapping[str, Variant]]
    method: str | None = None
    fractions: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Grid:
    """All cells, those first that others wait for.

    Args:
        recipe: What they are cells of.
        cells: In the order in which they are best run.
        notes: What was left out and why.
        stale: Folders of cells that failed, or were broken off, with other settings than they have now.
        study: Name of the study that it is.
    """

    recipe: Recipe
    cells: tuple[Cell, ...]
    notes: tuple[str, ...]
    stale: tuple[Path, ...] = ()
    study: str | None = None


def grid(
    path: Path, overrides: Sequence[str], options: Mapping[str, Any], out: Path, study: Study | None = None
) -> Grid:
    """The cells of a recipe, checked against its data and against what ``out`` holds.

    Args:
        path: The recipe.
        overrides: What is set in it, as ``key=value``.
        options: Values under the overrides.
        out: Folder of the bench.
        study: What to vary, in the place of methods and scopes.

    Raises:
        InputError: The recipe is wrong, a deletion is impossible, or ``out`` holds cells of another recipe.
    """
    _check_out(out, study)
    recipe = load(path, overrides, options)
    if study is not None:
        recipe = _studied(recipe, study)
    dataset = recipe.dataset()
    recipe.task.check(dataset)
    sized = bool(recipe.bench.counts or recipe.bench.fractions)
    drawn = [recipe.train_seed, recipe.method_seed, *([recipe.forget.seed] if sized or not recipe.forget.ids else [])]
    if len(recipe.bench.seeds) > 1 and None not in drawn:
        raise InputError(
            "bench: several seeds vary nothing here, since train_seed, method_seed and the deletion set are given; "
            "leave out the one that is to vary, or give one seed"
        )
    replaced = ("bench.", "bench=", *(("forget.ids=", "forget.count=", "forget.fraction=") if sized else ()))
    common = tuple(word for word in overrides if not word.startswith(replaced))
    variants: dict[str, Variant] = {}
    if recipe.retrain:
        variants[RETRAIN] = Variant(Retrain(), ("retrain=false",))
    notes: list[str] = []
    if study is not None:
        variants |= study.variants(recipe)
    else:
        methods, notes = _methods(recipe)
        for method in list(methods):
            try:
                load(path, (*common, *_method_words(method, recipe)))
            except InputError as error:  # a method may need what this recipe's original does not have
                methods.remove(method)
                why = "; ".join(str(error).replace(f"{path}: ", "").splitlines())
                notes.append(f"{method.name}, scope '{method.scope}': left out, {why}")
        if not methods:
            raise InputError("\n".join([*notes, "bench: nothing is left to run; choose other methods or scopes"]))
        variants |= {f"{method.name}-{method.scope}": Variant(method) for method in methods}
    model = recipe.model[0] if recipe.model else str(read_config(Path(str(recipe.original)))["model"])
    cells: list[Cell] = []
    stale: list[Path] = []
    leaders: dict[tuple[int, int, str], str] = {}
    examples: dict[tuple[str, str], int] = {}
    for size, size_words in _sizes(recipe).items():
        for seed in recipe.bench.seeds:
            requests: dict[str, Request] = {}
            for key, variant in variants.items():
                method, name = variant.method, f"{key}-{size}-seed{seed}"
                words = (*common, *size_words, f"seed={seed}", *_method_words(method, recipe), *variant.words)
                before = f"{variant.follows}-{size}-seed{seed}" if variant.follows else None
                if before:
                    # A recipe without a task takes it from the model that is brought, which is not there yet.
                    words += (f"original={out / CELLS / before / 'model'}", f"task.name={recipe.task.name}")
                of_cell = load(path, words)
                assert of_cell.method == method, (of_cell.method, method)
                part = str(of_cell.forget.part)
                seeds = of_cell.seeds()
                shared = (seeds["train"], seeds["forget"], size)  # what an original and its Retrain depend on
                if key == RETRAIN and shared in leaders:
                    continue
                if part not in requests:
                    requests[part] = of_cell.request(dataset)
                request = requests[part]
                # Copies that are drawn together can make D_f of one seed larger by some: the size that was asked.
                asked = examples.setdefault((size, part), len(request.with_earlier().forget))
                check_splits(request, of_cell.methods())
                try:
                    check_same(out / CELLS / name, identity(of_cell, request))
                except InputError:
                    if (out / CELLS / name / RESULTS_FILE).is_file():
                        raise
                    stale.append(out / CELLS / name)
                row: dict[str, Any] = {
                    "task": recipe.task.name,
                    "data": dataset.name,
                    "model": model,
                    "method": method.name,
                }
                row |= {"scope": method.scope, "forget_examples": asked, "seed": seed, "seeds": seeds}
                # The first cell of a size makes its Retrain, and the first of a seed also its original.
                trained = (name for (train, *_), name in leaders.items() if train == seeds["train"])
                original = None if recipe.original else next(trained, None)
                cells.append(
                    Cell(
                        name,
                        str(path),
                        words,
                        str(out / CELLS / name),
                        before or leaders.get(shared, original),
                        row | {"settings": method.model_dump(mode="json", exclude={"scope"})},
                        key,
                    )
                )
                leaders.setdefault(shared, name)
    first = set(leaders.values())
    cells.sort(key=lambda cell: cell.name not in first)
    return Grid(recipe, tuple(cells), tuple(notes), tuple(stale), None if study is None else study.name)


def _check_out(out: Path, study: Study | None) -> None:
    """Refuse a folder that holds something else, or another study."""
    check_writable(out)
    if not out.is_dir() or not any(out.iterdir()):
        return
    if not (out / GRID_FILE).is_file():
        raise InputError(f"--out '{out}' is not empty and holds no bench; expected a folder that is new or empty")
    held, asked = study_of(out), study.name if study else None
    if held != asked:
        holds = f"the study '{held}'" if held else "a bench"
        raise InputError(f"--out '{out}' holds {holds}; expected a folder that is new or empty")


def _studied(recipe: Recipe, study: Study) -> Recipe:
    """The recipe with the sizes of a study, if it is about the method of this study."""
    if study.method not in (None, recipe.method.name):
        raise InputError(
            f"the study '{study.name}' is about {study.method}, but the recipe's method is {recipe.method.name}; "
            f"set method.name={study.method}"
        )
    sizes = {"counts": recipe.bench.counts, "fractions": recipe.bench.fractions}
    if study.fractions is None:
        sizes = {"counts": None, "fractions": None}  # what varies is something else
    elif not any(sizes.values()):
        sizes["fractions"] = study.fractions
    return recipe.model_copy(update={"bench": recipe.bench.model_copy(update=sizes)})


def _methods(recipe: Recipe) -> tuple[list[Method], list[str]]:
    """The methods with their settings, by scope, and what was left out."""
    bench, task = recipe.bench, recipe.task
    notes: list[str] = []
    chosen: list[Method] = []
    there = ("all", "fusion", *task.modalities)
    named = [name for name in bench.methods or METHODS if name not in BASELINES or name in (bench.methods or ())]
    for name in named:
        kind = METHODS[name]
        if name == Retrain.name:
            continue  # stands in every table
        if task.name not in kind.tasks:
            if bench.methods:
                notes.append(f"{name}: left out, it does not do the task '{task.name}', only {', '.join(kind.tasks)}")
            continue
        own = [scope for scope in there if scope in kind.scopes]
        # The plain row and the "-F" row; a method of one encoder has its encoder in the plain one.
        plain = next((scope for scope in own if scope != "fusion"), None)
        wanted = bench.scopes or [scope for scope in (plain, "fusion") if scope in own]
        for scope in wanted:
            if scope not in own:
                notes.append(f"{name}, scope '{scope}': left out, its scopes here are {' and '.join(own)}")
                continue
            told = [each for each in (recipe.method, *recipe.compare) if (each.name, each.scope) == (name, scope)]
            if len(told) > 1 and told[0] is not recipe.method:
                notes.append(f"{name}, scope '{scope}': the recipe names it {len(told)} times, the first is taken")
            given = {key: getattr(told[0], key) for key in told[0].model_fields_set} if told else {}
            try:
                chosen.append(kind.model_validate({**given, **bench.settings.get(name, {}), "scope": scope}))
            except ValidationError as error:
                why = "; ".join(sentences(error, kind, name, f"method '{name}'"))
                if told or bench.settings.get(name):  # what somebody wrote down is never left out
                    raise InputError(f"bench, {name}, scope '{scope}': {why}") from error
                notes.append(f"{name}, scope '{scope}': left out, {why}")
    return chosen, notes


def _sizes(recipe: Recipe) -> Mapping[str, tuple[str, ...]]:
    """The sizes of D_f by name, each with what it sets in a recipe."""
    bench, forget = recipe.bench, recipe.forget
    if bench.counts or bench.fractions:
        counts = {str(count): (f"forget.count={count}",) for count in bench.counts or ()}
        return counts or {f"{each:g}": (f"forget.fraction={each!r}",) for each in bench.fractions or ()}
    return {str(forget.count or (forget.fraction and f"{forget.fraction:g}") or "ids"): ()}


def _method_words(method: Method, recipe: Recipe) -> Iterator[str]:
    """What makes a recipe one of this method alone."""
    before, mask = recipe.method, recipe.bench.mask
    if method != before:
        if method.name == before.name:
            yield "method.name=retrain"  # another name starts the table anew, so that nothing of the recipe's stays
        yield f"method.name={method.name}"
        yield f"method.scope={method.scope}"
        for key in sorted(method.model_fields_set - {"scope"}):
            value = method.model_dump(mode="json")[key]
            if value is not None:  # TOML has no word for nothing; where it is given, it is the default
                yield f"method.{key}={_toml(value)}"
    if method.needs_mask and mask is not None and recipe.train is not None and recipe.train.mask is None:
        yield f"train.mask={_toml(mask.model_dump(mode='json'))}"
        yield "retrain=false"  # the reference is that of the original of all others
    yield "compare=[]"


def _toml(value: Any) -> str:
    """A plain value in TOML, on one line.

    >>> _toml({"rate": 0.5, "names": ["a", True]})
    '{rate = 0.5, names = ["a", true]}'
    """
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False)
