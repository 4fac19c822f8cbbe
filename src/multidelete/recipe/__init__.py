"""Recipes: all settings of a run, from TOML and ``key=value`` words, validated before anything starts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from multidelete.data.dataset import Dataset
from multidelete.data.readers import READERS, mistakes, read
from multidelete.data.requests import Request, resolve
from multidelete.methods import METHODS, Method, Retrain, Retrained
from multidelete.models import MODELS
from multidelete.models.base import Model
from multidelete.models.config import ModelConfig
from multidelete.models.extras import EXTRAS
from multidelete.models.folder import is_hub_id, is_transformers, model_folder, read_config
from multidelete.models.lora import base_of, is_adapter
from multidelete.models.supported import described
from multidelete.recipe.errors import entry_sentences, sentences, sentences_of
from multidelete.recipe.settings import BenchSettings, ForgetSettings, MembershipSettings
from multidelete.recipe.values import merged, overridden, read_values
from multidelete.tasks import TASKS, Task, task_for
from multidelete.training.original import TrainSettings
from multidelete.utils.entries import Entry, MistakesError
from multidelete.utils.errors import InputError, did_you_mean
from multidelete.utils.registry import unknown

__all__ = [
    "BenchSettings",
    "ForgetSettings",
    "MembershipSettings",
    "Recipe",
    "as_values",
    "load",
    "merged",
    "overridden",
    "read_values",
    "sentences",
    "validate",
]

IN_MEMORY = "in memory"  # reader and original of recipes whose data and model were given as Python objects


def _known_data(value: Any) -> Any:
    """Validate the reader and its options; a string is the name of a reader."""
    value = {"reader": value} if isinstance(value, str) else value
    if not isinstance(value, dict) or not isinstance(value.get("reader"), str):
        raise MistakesError(f"'data' needs a reader, one of {', '.join(READERS)}")
    if value["reader"] == IN_MEMORY:
        return value
    if value["reader"] not in READERS:
        raise MistakesError(unknown(value["reader"], READERS, "reader"))
    options = {key: each for key, each in value.items() if key != "reader"}
    if wrong := list(mistakes(value["reader"], options)):
        raise MistakesError(*wrong)
    return value


def _reference(value: Any) -> Any:
    """Validate ``retrain``: whether to train Retrain, or where it is."""
    known = isinstance(value, bool) or (isinstance(value, str) and (Path(value).exists() or is_hub_id(value)))
    if not known:
        raise MistakesError(f"'retrain' should be true, false, or the folder or hub id of a model, got {value!r}")
    return value


AnyTask = Annotated[Task, Entry(TASKS, "task")]
AnyMethod = Annotated[Method, Entry(METHODS, "method")]
AnyModel = Annotated[
    tuple[str, ModelConfig], Entry(MODELS, "model", lambda model: cast(type[Model], model).config_class, named=True)
]
Seed = Annotated[int, Field(ge=0, strict=True)]


class Recipe(BaseModel):
    """Validated settings of one run.

    Args:
        task: Task and its settings; by default the task that a user-provided model was trained for, else retrieval.
        data: Name of the reader and its options.
        model: Architecture and its configuration; None with ``original``.
        original: Folder of a trained model, instead of training one.
        processor: Folder or hub id with the image processor and tokenizer of ``original``, if that has none.
        start: Start of the original's training instead of random weights: folder or hub id of a model, or another
            recipe (TOML, relative to this one or the working folder), whose original is then trained first. By default
            the base of an adapter.
        train: Training settings of the original and Retrain; None with ``original``, whose folder may have them.
        forget: Deletion request.
        method: Unlearning method.
        compare: Further methods to compare.
        retrain: Whether to train Retrain, the reference of all comparisons; or folder or hub id of a model that was
            trained without the deleted pairs.
        seed: Default of all seeds: initial weights, training, deletion set and unlearning.
        train_seed: Seed of initial weights and training, of the original and of Retrain; ``seed`` by default.
        method_seed: Seed of unlearning; ``seed`` by default. The seed of the deletion set is ``forget.seed``.
        precision: See :class:`Engine`.
        membership: Settings of membership attacks.
        bench: Grid of ``multidelete bench``, of which this run may be a cell.
        merge: Whether to merge an unlearned adapter (peft) into its base; by default it comes out as an adapter.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: AnyTask
    data: Annotated[dict[str, Any], BeforeValidator(_known_data)] = {"reader": "scenes"}
    model: AnyModel | None = None
    original: str | None = None
    processor: str | None = None
    start: str | None = None
    train: TrainSettings | None = None
    forget: ForgetSettings
    method: AnyMethod
    compare: tuple[AnyMethod, ...] = ()
    retrain: Annotated[bool | str, BeforeValidator(_reference)] = True
    seed: Seed = 0
    train_seed: Seed | None = None
    method_seed: Seed | None = None
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    membership: MembershipSettings = MembershipSettings()
    bench: BenchSettings = BenchSettings()
    merge: bool = Field(default=False, strict=True)

    def seeds(self) -> dict[str, int]:
        """Seeds of ``train``, ``forget`` and ``method``."""
        own = {"train": self.train_seed, "forget": self.forget.seed, "method": self.method_seed}
        return {name: self.seed if seed is None else seed for name, seed in own.items()}

    def methods(self) -> list[Method]:
        """All methods of the run: Retrain, the recipe's method, then the others."""
        reference = self.reference()
        return [*([] if reference is None else [reference]), self.method, *self.compare]

    def reference(self) -> Method | None:
        """Retrain, if there is one."""
        if isinstance(self.retrain, str):
            return Retrained(model=self.retrain)
        return Retrain() if self.retrain else None

    def dataset(self) -> Dataset:
        """Read the data."""
        options = dict(self.data)
        return read(options.pop("reader"), **options)

    def request(self, dataset: Dataset) -> Request:
        """Resolve the deletion request."""
        given = self.forget.model_dump(exclude={"seed"})
        return resolve(dataset, **given, bare=self.forget.bare, seed=self.seeds()["forget"])

    def architecture(self) -> type[Model]:
        """Class of the model to build."""
        assert self.model is not None
        return MODELS[self.model[0]]

    @model_validator(mode="before")
    @classmethod
    def _with_defaults(cls, values: Any) -> Any:
        """Add default values; the task is read from a user-provided model."""
        original = values.get("original")
        defaults: dict[str, Any] = {"task": _task_of(original), "method": "multidelete", "forget": {}}
        defaults |= {"start": adapter_base(original)}
        if original is None:
            defaults |= {"model": "albef", "train": {}}
        return {**defaults, **{key: value for key, value in values.items() if value is not None}}


def load(path: Path | None, overrides: Sequence[str] = (), options: Mapping[str, Any] | None = None) -> Recipe:
    """Read and validate a recipe.

    Args:
        path: TOML file; None to use only ``options`` and overrides.
        overrides: ``a.b=c`` with c a TOML value; a bare word is a string.
        options: Values that override the file and are overridden by ``overrides``.

    Raises:
        InputError: The recipe is invalid; the message has one line per mistake.
    """
    return validate(read_values(path, overrides, options), source_of(path))


def source_of(path: Path | None) -> str:
    """Name of a recipe in messages."""
    return "the command line" if path is None else str(path)


def validate(values: Mapping[str, Any], source: str) -> Recipe:
    """Validate a recipe; all mistakes are collected before any is reported.

    Args:
        values: Values from :func:`read_values`.
        source: Name of the recipe in messages.

    Raises:
        InputError: The recipe is invalid; the message has one line per mistake.
    """
    try:
        recipe = Recipe.model_validate(dict(values))
    except ValidationError as error:
        texts = list(_sentences(error))
    else:
        texts = list(_conflicts(recipe, values))
    if texts:
        raise InputError("\n".join(f"{source}: {text}" for text in dict.fromkeys(texts)))
    return recipe


def _sentences(error: ValidationError) -> Iterator[str]:
    """One message for each mistake of a recipe, table by table."""
    tables: dict[str, type[BaseModel]] = {
        "train": TrainSettings,
        "forget": ForgetSettings,
        "bench": BenchSettings,
        "membership": MembershipSettings,
    }
    others: dict[str, list[tuple[tuple[str, ...], Mapping[str, Any]]]] = {}
    for mistake in error.errors():
        key, *path = map(str, mistake["loc"])
        if mistake["type"] == "extra_forbidden" and not path:
            yield f"there is no setting '{key}'{did_you_mean(key, Recipe.model_fields)}"
        elif mistake["type"] in ("settings", "unlocated") and key not in tables:
            yield from entry_sentences(mistake, f"{key}[{path[0]}]" if path else key)
        elif key == "compare" and mistake["type"] != "mistakes":
            yield "'compare' must be a list of tables ([[compare]])"
        else:
            others.setdefault(key, []).append((tuple(path), mistake))
    for key, mistakes_of_table in others.items():
        yield from sentences_of(mistakes_of_table, tables.get(key, Recipe), key)


def _conflicts(recipe: Recipe, values: Mapping[str, Any]) -> Iterator[str]:
    """Messages about conflicts between valid tables."""
    if recipe.original is not None and values.get("model") is not None:
        yield "'original' is a trained model; remove the table 'model'"
    if recipe.processor is not None and recipe.original is None:
        yield "'processor' (--processor) belongs to a trained model ('original', --model); remove it"
    start = recipe.start
    recipe_of_start = start is not None and start.endswith(".toml") and Path(start).is_file()
    if start is not None and not (Path(start).is_dir() or recipe_of_start or is_hub_id(start)):
        yield f"'start' (--base) is the folder or hub id of a model, or a recipe (TOML); there is no '{start}'"
    if recipe.merge and (recipe.original is None or not is_adapter(Path(recipe.original))):
        yield "'merge' (--merge) is for an adapter of peft, which the model is not; leave it out"
    yield from _missing_capabilities(recipe)


def _missing_capabilities(recipe: Recipe) -> Iterator[str]:
    """Messages about requirements that neither the task nor the original fulfils."""
    train, model, original = recipe.train, recipe.model, recipe.original
    asked = train.extra if train is not None else None
    missing = asked.requires - MODELS[model[0]].provides if asked is not None and model is not None else ()
    if asked is not None and missing:
        yield f"'train.extra': {asked.name} needs {', '.join(missing)}, which a {model[0]} model lacks; remove it"  # type: ignore[index]
    given = _brought(original)
    has = {asked.name} if asked is not None else set()
    if original is not None and given:
        has = {given["extra"]["name"]} if given.get("extra") else set()
        if asked is not None and asked.name not in has:
            yield f"'original' was trained without '{asked.name}'; remove 'train.extra'"
    for method in (recipe.method, *recipe.compare):
        missing = method.requires - EXTRAS.keys() - recipe.task.provides()
        if missing:
            yield (
                f"method '{method.name}' does not apply to the task '{recipe.task.name}': "
                f"it needs {', '.join(sorted(missing))}"
            )
        elif (original is None or given) and (lacking := method.requires & EXTRAS.keys() - has):
            (name,) = lacking
            how = f"add a table [train.extra] with name = '{name}'"
            how = how if original is None else f"train one by a recipe: {how}"
            yield f"method '{method.name}' needs an original that was trained with '{name}'; {how}"


def _brought(original: str | None) -> dict[str, Any]:
    """Configuration of a user-provided model; empty if it cannot be read, which is reported at loading."""
    try:
        fields = read_config(Path(original)) if isinstance(original, str) else {}
        return {**fields, **described(model_folder(original), fields)} if is_transformers(fields) else fields  # type: ignore[arg-type]
    except InputError:
        return {}


def is_fine_tuned(original: Path) -> bool:
    """Whether it is unknown what a model of ``transformers`` was fine-tuned from, as it was built elsewhere."""
    return bool(_brought(str(original)).get("fine_tuned")) and adapter_base(original) is None


def adapter_base(original: object) -> str | None:
    """Base of an adapter (peft), folder or hub id; None for other models, and damaged ones, which loading reports."""
    folder = Path(original) if isinstance(original, str | Path) else None
    try:
        return base_of(folder) if folder is not None and is_adapter(folder) else None
    except InputError:
        return None


def _task_of(original: str | None) -> str:
    """Task of a user-provided model; retrieval if it cannot be read."""
    try:
        fields = _brought(original)
        return task_for(MODELS[fields["model"]], fields.get("labels", ())) if fields else "retrieval"
    except (InputError, KeyError):
        return "retrieval"


def as_values(recipe: Recipe) -> dict[str, Any]:
    """A recipe as plain values, with all defaults; without ``bench``, which concerns other runs."""
    named: Mapping[str, Any] = {
        "task": {"name": recipe.task.name, **recipe.task.model_dump(mode="json")},
        "data": recipe.data,
        "original": recipe.original,
        "processor": recipe.processor,
        "start": recipe.start,
        "model": recipe.model and {"name": recipe.model[0], **recipe.model[1].model_dump(mode="json")},
        "train": recipe.train and recipe.train.model_dump(mode="json"),
        "forget": recipe.forget.model_dump(mode="json", exclude_none=True),
        "method": {"name": recipe.method.name, **recipe.method.model_dump(mode="json")},
        "compare": [{"name": each.name, **each.model_dump(mode="json")} for each in recipe.compare],
        "retrain": recipe.retrain,
        "seed": recipe.seed,
        "train_seed": recipe.train_seed,
        "method_seed": recipe.method_seed,
        "precision": recipe.precision,
        "membership": recipe.membership.model_dump(mode="json"),
        "merge": recipe.merge or None,
    }
    return {key: value for key, value in named.items() if value is not None}
