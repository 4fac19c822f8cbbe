"""Cells of a bench: methods × scopes × sizes × seeds on one task; each cell is a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from multidelete.bench.commands import command_of
from multidelete.data.dataset import Dataset
from multidelete.data.requests import Request
from multidelete.methods import METHODS, Method, Retrain
from multidelete.models.extras import EXTRAS
from multidelete.models.folder import read_config
from multidelete.pipeline import check_splits, identity
from multidelete.recipe import Recipe, overridden, read_values, sentences, validate
from multidelete.runs.bench_folder import CELLS, GRID_FILE, study_of
from multidelete.runs.groups import BASELINES
from multidelete.runs.record import RESULTS_FILE, check_same, check_writable
from multidelete.utils.errors import InputError
from multidelete.utils.files import is_empty

RETRAIN = "retrain-all"  # variant of every grid


@dataclass(frozen=True)
class Cell:
    """One run of the grid.

    Args:
        name: Name of the folder.
        recipe: Recipe of the run.
        command: Command that runs this cell alone, for display.
        out: Folder of the run.
        after: Name of a cell that must run first: it trains a shared original or Retrain, or the model to start from.
        row: Entries of the row in ``results.json`` that are known before the run.
        variant: Name of the variant.
    """

    name: str
    recipe: Recipe
    command: str
    out: Path
    after: str | None
    row: Mapping[str, Any]
    variant: str = ""

    @property
    def finished(self) -> bool:
        """Whether the run has finished."""
        return (self.out / RESULTS_FILE).is_file()

    def facts(self) -> dict[str, Any]:
        """Entry of the cell in ``bench.json``."""
        return {
            "name": self.name,
            "command": self.command,
            "out": str(self.out),
            "after": self.after,
            "row": self.row,
            "variant": self.variant,
        }


@dataclass(frozen=True)
class Variant:
    """Method and its settings; the grid has one cell for each variant, size and seed.

    Args:
        method: The method.
        changes: Other values to set in the recipe.
        follows: Variant whose unlearned model is the start, instead of the original.
    """

    method: Method
    changes: Mapping[str, Any] = field(default_factory=dict)
    follows: str | None = None


@dataclass(frozen=True)
class Study:
    """Bench of variants of one method.

    Args:
        name: Name of the study.
        variants: Function that returns the variants of a recipe, by name.
        method: Required method; by default any method of the recipe.
        fractions: Sizes of D_f as fractions; by default the recipe's request.
    """

    name: str
    variants: Callable[[Recipe], Mapping[str, Variant]]
    method: str | None = None
    fractions: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Grid:
    """All cells of a bench.

    Args:
        recipe: Recipe of the bench.
        cells: Cells; those that others depend on come first.
        notes: What was left out and why.
        stale: Folders of unfinished cells with other settings.
        study: Name of the study, if any.
    """

    recipe: Recipe
    cells: tuple[Cell, ...]
    notes: tuple[str, ...]
    stale: tuple[Path, ...] = ()
    study: str | None = None


def grid(
    path: Path, overrides: Sequence[str], options: Mapping[str, Any], out: Path, study: Study | None = None
) -> Grid:
    """Build the grid of a recipe, checked against the data and the contents of ``out``.

    Args:
        path: Recipe file.
        overrides: ``key=value`` words that override the recipe.
        options: Values with lower precedence than the overrides.
        out: Folder of the bench.
        study: Study, whose variants replace methods and scopes.

    Raises:
        InputError: The recipe is invalid, a deletion is impossible, or ``out`` contains cells of another recipe.
    """
    _check_out(out, study)
    values = read_values(path, overrides, options)
    recipe = validate(values, str(path))
    if study is not None:
        recipe = _studied(recipe, study)
    dataset = recipe.dataset()
    recipe.task.check(dataset)
    _check_seeds(recipe)
    variants, notes = _variants(recipe, values, str(path), study)
    model = recipe.model[0] if recipe.model else str(read_config(Path(str(recipe.original)))["model"])
    builder = _Builder(recipe, values, path, overrides, out, dataset, model)
    for size, request in _sizes(recipe).items():
        for seed in recipe.bench.seeds:
            for name, variant in variants.items():
                builder.add(name, variant, size, request, seed)
    leaders = set(builder.leaders.values())
    cells = sorted(builder.cells, key=lambda cell: cell.name not in leaders)
    return Grid(recipe, tuple(cells), tuple(notes), tuple(builder.stale), None if study is None else study.name)


class _Builder:
    """Builds the cells of a grid and the dependencies through shared originals and Retrains."""

    def __init__(
        self,
        recipe: Recipe,
        values: Mapping[str, Any],
        path: Path,
        overrides: Sequence[str],
        out: Path,
        dataset: Dataset,
        model: str,
    ) -> None:
        self.recipe, self.values, self.path, self.out = recipe, values, path, out
        self.dataset, self.model = dataset, model
        sized = bool(recipe.bench.counts or recipe.bench.fractions)
        replaced = ("bench.", "bench=", *(("forget.ids=", "forget.count=", "forget.fraction=") if sized else ()))
        self.overrides = [word for word in overrides if not word.startswith(replaced)]
        self.cells: list[Cell] = []
        self.stale: list[Path] = []
        self.leaders: dict[tuple[int, int, str], str] = {}  # (train seed, forget seed, size) -> cell
        self._requests: dict[tuple[str, str, int], Request] = {}
        self._sizes: dict[tuple[str, str], int] = {}

    def add(self, variant_name: str, variant: Variant, size: str, request: Mapping[str, Any], seed: int) -> None:
        """Add the cell of a variant, size and seed, unless it is a Retrain that the grid already has."""
        name, method = f"{variant_name}-{size}-seed{seed}", variant.method
        previous = f"{variant.follows}-{size}-seed{seed}" if variant.follows else None
        changes = [{"seed": seed}, request, method_changes(method, self.recipe), variant.changes]
        if previous:
            # A recipe without a task takes it from the original, which does not exist yet here.
            brought = {"original": str(self.out / CELLS / previous / "model"), "task": {"name": self.recipe.task.name}}
            changes.append(brought)
        recipe = validate(overridden(self.values, *filter(None, changes)), str(self.path))
        assert recipe.method == method, (recipe.method, method)
        seeds = recipe.seeds()
        shared = (seeds["train"], seeds["forget"], size)  # determine an original and its Retrain
        if variant_name == RETRAIN and shared in self.leaders:
            return
        resolved = self._request(recipe, size, seed)
        folder = self.out / CELLS / name
        try:
            check_same(folder, identity(recipe, resolved))
        except InputError:
            if (folder / RESULTS_FILE).is_file():
                raise
            self.stale.append(folder)
        # The first cell of a size trains its Retrain, and the first of a seed also its original.
        trained = (cell for (train, *_), cell in self.leaders.items() if train == seeds["train"])
        original = None if self.recipe.original else next(trained, None)
        row = {
            "task": recipe.task.name,
            "data": self.dataset.name,
            "model": self.model,
            "method": method.name,
            **method.display(),
            "scope": method.scope,
            "forget_examples": self._sizes[size, str(recipe.forget.part)],
            "seed": seed,
            "seeds": seeds,
            "settings": method.model_dump(mode="json", exclude={"scope"}),
        }
        command = command_of(recipe, self.recipe, self.path, self.overrides, folder)
        after = previous or self.leaders.get(shared, original)
        self.cells.append(Cell(name, recipe, command, folder, after, row, variant_name))
        self.leaders.setdefault(shared, name)

    def _request(self, recipe: Recipe, size: str, seed: int) -> Request:
        """Deletion request of a cell, resolved once for all variants and checked."""
        part = str(recipe.forget.part)
        key = (size, part, seed)
        if key not in self._requests:
            self._requests[key] = recipe.request(self.dataset)
        request = self._requests[key]
        # Copies are deleted together and can make D_f larger for some seeds; all seeds get the first size.
        self._sizes.setdefault((size, part), len(request.all_ids))
        check_splits(request, recipe.methods())
        return request


def _check_seeds(recipe: Recipe) -> None:
    """Check that something depends on the seeds if there are several."""
    sized = bool(recipe.bench.counts or recipe.bench.fractions)
    drawn = [recipe.train_seed, recipe.method_seed, *([recipe.forget.seed] if sized or not recipe.forget.ids else [])]
    if len(recipe.bench.seeds) > 1 and None not in drawn:
        raise InputError(
            "bench: several seeds vary nothing here, since train_seed, method_seed and the deletion set are given; "
            "leave out the one that is to vary, or give one seed"
        )


def _variants(
    recipe: Recipe, values: Mapping[str, Any], source: str, study: Study | None
) -> tuple[dict[str, Variant], list[str]]:
    """Variants of a grid by name, Retrain first, and notes on what was left out."""
    reference = recipe.reference()
    variants = {} if reference is None else {RETRAIN: Variant(reference, {"retrain": False})}
    if study is not None:
        return {**variants, **study.variants(recipe)}, []
    methods, notes = _methods(recipe)
    for method in list(methods):
        try:
            validate(overridden(values, method_changes(method, recipe)), source)
        except InputError as error:  # a method may need properties that the original does not have
            methods.remove(method)
            why = "; ".join(str(error).replace(f"{source}: ", "").splitlines())
            notes.append(f"{method.name}, scope '{method.scope}': left out, {why}")
    if not methods:
        raise InputError("\n".join([*notes, "bench: nothing is left to run; choose other methods or scopes"]))
    return variants | {f"{method.name}-{method.scope}": Variant(method) for method in methods}, notes


def _check_out(out: Path, study: Study | None) -> None:
    """Check that the folder is empty or contains this bench or study."""
    check_writable(out)
    if is_empty(out):
        return
    if not (out / GRID_FILE).is_file():
        raise InputError(f"--out '{out}' is not empty and holds no bench; expected a folder that is new or empty")
    held, asked = study_of(out), study.name if study else None
    if held != asked:
        holds = f"the study '{held}'" if held else "a bench"
        raise InputError(f"--out '{out}' holds {holds}; expected a folder that is new or empty")


def _studied(recipe: Recipe, study: Study) -> Recipe:
    """Recipe with the sizes of a study; raises an error if it has another method than the study."""
    if study.method not in (None, recipe.method.name):
        raise InputError(
            f"the study '{study.name}' is about {study.method}, but the recipe's method is {recipe.method.name}; "
            f"set method.name={study.method}"
        )
    sizes = {"counts": recipe.bench.counts, "fractions": recipe.bench.fractions}
    if study.fractions is None:
        sizes = {"counts": None, "fractions": None}  # the study does not vary the size
    elif not any(sizes.values()):
        sizes["fractions"] = study.fractions
    return recipe.model_copy(update={"bench": recipe.bench.model_copy(update=sizes)})


def _methods(recipe: Recipe) -> tuple[list[Method], list[str]]:
    """Methods with their settings, one for each scope, and notes on what was left out."""
    bench, task = recipe.bench, recipe.task
    notes: list[str] = []
    chosen: list[Method] = []
    there = ("all", "fusion", *task.modalities)
    named = [name for name in bench.methods or METHODS if name not in BASELINES or name in (bench.methods or ())]
    for name in named:
        kind = METHODS[name]
        if name == Retrain.name:
            continue  # part of every grid
        if missing := kind.requires - EXTRAS.keys() - task.provides():
            if bench.methods:
                notes.append(f"{name}: left out, it needs {', '.join(missing)}, which '{task.name}' does not provide")
            continue
        own = [scope for scope in there if scope in kind.scopes]
        # The plain row and the "-F" row; for a method of one encoder, the plain row has the scope of that encoder.
        plain = next((scope for scope in own if scope != "fusion"), None)
        wanted = bench.scopes or [scope for scope in (plain, "fusion") if scope in own]
        for scope in wanted:
            if scope not in own:
                notes.append(f"{name}, scope '{scope}': left out, its scopes here are {' and '.join(own)}")
                continue
            named_by_recipe = [
                each for each in (recipe.method, *recipe.compare) if (each.name, each.scope) == (name, scope)
            ]
            if len(named_by_recipe) > 1 and named_by_recipe[0] is not recipe.method:
                notes.append(
                    f"{name}, scope '{scope}': the recipe names it {len(named_by_recipe)} times, the first is taken"
                )
            given = (
                {key: getattr(named_by_recipe[0], key) for key in named_by_recipe[0].model_fields_set}
                if named_by_recipe
                else {}
            )
            try:
                chosen.append(kind.model_validate({**given, **bench.settings.get(name, {}), "scope": scope}))
            except ValidationError as error:
                why = "; ".join(sentences(error, kind, name, f"method '{name}'"))
                if named_by_recipe or bench.settings.get(name):  # methods with explicit settings are never left out
                    raise InputError(f"bench, {name}, scope '{scope}': {why}") from error
                notes.append(f"{name}, scope '{scope}': left out, {why}")
    return chosen, notes


def _sizes(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """Sizes of D_f by name, with the values to set in the recipe."""
    bench, forget = recipe.bench, recipe.forget
    if bench.counts or bench.fractions:
        counts: dict[str, dict[str, Any]] = {str(count): {"forget": {"count": count}} for count in bench.counts or ()}
        return counts or {f"{each:g}": {"forget": {"fraction": each}} for each in bench.fractions or ()}
    return {str(forget.count or (forget.fraction and f"{forget.fraction:g}") or "ids"): {}}


def method_changes(method: Method, recipe: Recipe) -> dict[str, Any]:
    """Values that reduce a recipe to this method."""
    changes: dict[str, Any] = {"compare": []}
    if method != recipe.method:
        changes["method"] = method
    extra, train = recipe.bench.extra, recipe.train
    if extra is not None and extra.name in method.requires and train is not None and train.extra is None:
        # The reference is that of the original of all other methods.
        changes |= {"train": {"extra": recipe.bench.model_dump(mode="json")["extra"]}, "retrain": False}
    return changes
