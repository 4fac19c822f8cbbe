"""A recipe: everything a run depends on, in TOML and ``key=value``, checked whole before anything starts."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Self, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from multidelete.data.dataset import Dataset
from multidelete.data.readers import READERS, mistakes, read
from multidelete.data.requests import Request, resolve
from multidelete.methods import METHODS, Method, Retrain
from multidelete.models import MODELS
from multidelete.models.base import Model, ModelConfig, read_config
from multidelete.tasks import TASKS, Task, task_for
from multidelete.training.original import MaskSettings, TrainSettings
from multidelete.utils.errors import InputError, did_you_mean
from multidelete.utils.registry import unknown

T = TypeVar("T", bound=BaseModel)

FEWEST_REFERENCES = 4  # for U-LiRA: each is held against the others

_NAMED = {"task": "name", "model": "name", "method": "name", "data": "reader"}
_REQUESTS = ("ids", "count", "fraction")
_SIZES = ("counts", "fractions")


class ForgetSettings(BaseModel):
    """Which examples must go: a file or list of ids, a number, or a share of the training examples.

    Args:
        ids: A text file with one id in a line, or a list of ids.
        count: Size of a seeded sample.
        fraction: Size of a seeded sample, as a share.
        seed: Seed of the sample; the recipe's by default.
        part: ``[2, 5]`` for the second of five parts of this request, in its order; the first is deleted by then.
        earlier: File or list of ids that were deleted before, from the model that is brought: they are in neither D_f
            nor D_r, and are judged with D_f.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    ids: str | list[str] | None = None
    count: int | None = Field(default=None, ge=1, strict=True)
    fraction: float | None = Field(default=None, gt=0, lt=1)
    seed: int | None = Field(default=None, ge=0, strict=True)
    part: tuple[int, int] | None = None
    earlier: str | list[str] | None = None


class BenchSettings(BaseModel):
    """The grid of ``multidelete bench``: methods × scopes × sizes × seeds, on the recipe's task.

    Args:
        methods: Names; by default all that unlearn and do the task. Original and Retrain stand beside them.
        scopes: By default "all" and "fusion" where a method has them; one without "all" has its encoder in its place.
        seeds: Of weights, training, deletion set and unlearning; what has its own in the recipe keeps that, so that
            one can be varied alone (``train_seed=0 forget.seed=0``: unlearning).
        counts: Sizes of D_f; by default the recipe's request.
        fractions: Sizes of D_f as shares, instead of counts.
        settings: Settings of a method, by its name, over those of the recipe's tables of this name and scope.
        mask: What the originals of methods that need a mask are trained with, where the recipe's is trained without
            one: another original, which has a row of its own.
        cluster: What submitit is asked for (``timeout_min``, ``slurm_partition``, ...); ``cluster`` chooses where.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    methods: tuple[str, ...] | None = None
    scopes: tuple[str, ...] | None = None
    seeds: tuple[Annotated[int, Field(ge=0, strict=True)], ...] = (0, 1, 2)
    counts: tuple[Annotated[int, Field(ge=1, strict=True)], ...] | None = None
    fractions: tuple[Annotated[float, Field(gt=0, lt=1)], ...] | None = None
    settings: dict[str, dict[str, Any]] = {}
    mask: MaskSettings | None = None
    cluster: dict[str, Any] = {}

    @field_validator("methods", "scopes", "seeds", "counts", "fractions")
    @classmethod
    def _some_and_each_once(cls, given: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
        if given is not None and not given:
            raise ValueError("the list is empty; leave it out for the default")
        twice = next((each for i, each in enumerate(given or ()) if each in (given or ())[:i]), None)
        if twice is not None:
            raise ValueError(f"{twice!r} is given twice")
        return given

    @model_validator(mode="after")
    def _one_kind_of_size(self) -> Self:
        if self.counts is not None and self.fractions is not None:
            raise ValueError("sizes are given by one of counts and fractions, not by both")
        return self


class MembershipSettings(BaseModel):
    """What membership attacks have to go by beside the models of a run.

    Args:
        shadow: Whether a model is trained like the original on half of its examples, from which attackers learn.
        references: Models trained on half of the examples for LiRA and RMIA, in complementary pairs; each takes about
            half as long as the original.
        u_lira: Names of methods that are also attacked by U-LiRA: each runs on every reference model too.
        resamples: Bootstrap samples behind each interval.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    shadow: bool = True
    references: int = Field(default=0, ge=0, multiple_of=2, strict=True)
    u_lira: tuple[str, ...] = ()
    resamples: int = Field(default=1000, ge=100, strict=True)

    @model_validator(mode="after")
    def _enough_for_u_lira(self) -> Self:
        if self.u_lira and self.references < FEWEST_REFERENCES:
            raise ValueError(
                f"u_lira needs at least {FEWEST_REFERENCES} reference models, references is {self.references}"
            )
        return self


class Recipe(BaseModel):
    """One run, validated.

    Args:
        task: What is asked, with its settings; by default what a model that is brought was trained for, else retrieval.
        data: Name of the reader and its options.
        model: The architecture and its configuration; None where ``original`` brings the model.
        original: Folder of a trained model, instead of training one.
        start: What the training of the original starts from instead of random weights: folder of a model, or another
            recipe (TOML, beside this one or from the working folder), whose original is then trained first.
        train: How the original and Retrain are made; None where ``original`` brings a model that may say so itself.
        forget: The deletion request.
        method: The method that the run is about.
        compare: Methods beside it.
        retrain: Whether Retrain, the reference of every comparison, is made.
        seed: Seed of initial weights, training, deletion set and unlearning; each can have its own.
        train_seed: Seed of initial weights and training, of the original and of Retrain; ``seed`` by default.
        method_seed: Seed of unlearning; ``seed`` by default. That of the deletion set is ``forget.seed``.
        precision: See :class:`Engine`.
        membership: What membership attacks go by.
        bench: The grid of ``multidelete bench``, of which this run may be a cell.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    task: Task
    data: dict[str, Any]
    model: tuple[str, ModelConfig] | None
    original: str | None
    start: str | None
    train: TrainSettings | None
    forget: ForgetSettings
    method: Method
    compare: tuple[Method, ...]
    retrain: bool
    seed: int
    precision: Literal["auto", "fp32", "bf16"]
    membership: MembershipSettings = MembershipSettings()
    bench: BenchSettings = BenchSettings()
    train_seed: int | None = None
    method_seed: int | None = None

    def seeds(self) -> dict[str, int]:
        """The seed of each thing that is drawn: ``train``, ``forget`` and ``method``."""
        own = {"train": self.train_seed, "forget": self.forget.seed, "method": self.method_seed}
        return {name: self.seed if seed is None else seed for name, seed in own.items()}

    def methods(self) -> list[Method]:
        """Every method of the run: Retrain first, then the one that it is about, then the others."""
        first: list[Method] = [Retrain()] if self.retrain else []
        return [*first, self.method, *self.compare]

    def dataset(self) -> Dataset:
        """Read the data."""
        options = dict(self.data)
        return read(options.pop("reader"), **options)

    def request(self, dataset: Dataset) -> Request:
        """Cut the data."""
        return resolve(dataset, **self.forget.model_dump(exclude={"seed"}), seed=self.seeds()["forget"])

    def architecture(self) -> type[Model]:
        """The class of the model that is to be built."""
        assert self.model is not None
        return MODELS[self.model[0]]


def load(path: Path | None, overrides: Sequence[str] = (), options: Mapping[str, Any] | None = None) -> Recipe:
    """Read a recipe.

    Args:
        path: A TOML file; none for ``options`` and overrides alone.
        overrides: ``a.b=c`` with c a TOML value; a bare word is a string.
        options: Values over the file's and under the overrides.

    Raises:
        InputError: With every mistake of the recipe, a line each.
    """
    source = "the command line" if path is None else str(path)
    values = {} if path is None else _read_toml(path)
    start = values.get("start")
    if path is not None and isinstance(start, str) and (path.parent / start).is_file():
        values["start"] = str(path.parent / start)  # another recipe, which stands beside this one
    words = [_parse_override(word) for word in overrides]
    for given in ([options] if options else [], words):
        if any(over.get("original") is not None for over in given):
            for key in ("model", "start"):  # a model that is brought takes the place of the recipe's
                values.pop(key, None)
        requested = {key for over in given for key in _REQUESTS if key in _table(over.get("forget"))}
        if requested:  # one request takes the place of another
            values["forget"] = {k: v for k, v in _table(values.get("forget")).items() if k not in _REQUESTS}
        if any(key in _table(over.get("bench")) for over in given for key in _SIZES):
            values["bench"] = {k: v for k, v in _table(values.get("bench")).items() if k not in _SIZES}
        for over in given:
            values = merged(values, over)
    return validate(values, source)


def validate(values: Mapping[str, Any], source: str) -> Recipe:
    """A recipe from plain values; all mistakes are found before any is reported."""
    return _Checker(source).recipe(dict(values))


def as_values(recipe: Recipe) -> dict[str, Any]:
    """A recipe as plain values, complete with every default; ``bench`` is about other runs than this one."""
    named: Mapping[str, Any] = {
        "task": {"name": recipe.task.name, **recipe.task.model_dump(mode="json")},
        "data": recipe.data,
        "original": recipe.original,
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
    }
    return {key: value for key, value in named.items() if value is not None}


def merged(values: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Values with others laid over them, table by table; another name in a table starts that table anew.

    >>> merged({"method": {"name": "neggrad", "epochs": 2}}, {"method": {"epochs": 3}})
    {'method': {'name': 'neggrad', 'epochs': 3}}
    >>> merged({"method": {"name": "neggrad", "epochs": 2}}, {"method": "finetune"})
    {'method': {'name': 'finetune'}}
    """
    result = dict(values)
    for key, value in over.items():
        before = result.get(key)
        if key in _NAMED:  # ``method = "neggrad"`` is short for a table with that name
            before, value = ({_NAMED[key]: each} if isinstance(each, str) else each for each in (before, value))
        if isinstance(before, Mapping) and isinstance(value, Mapping):
            renamed = any(name in value and value[name] != before.get(name) for name in ("name", "reader"))
            result[key] = dict(value) if renamed else merged(before, value)
        else:
            result[key] = value
    return result


def _read_toml(path: Path) -> dict[str, Any]:
    if not path.exists() or path.is_dir():
        beside = [p.name for p in path.parent.glob("*.toml")] if path.parent.is_dir() else []
        kind = "is a folder" if path.is_dir() else "does not exist"
        raise InputError(f"recipe '{path}' {kind}{did_you_mean(path.name, beside)}")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not TOML: it is not a text file in UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path} is not TOML: {error}") from error
    except OSError as error:
        raise InputError(f"recipe '{path}' cannot be read: {error.strerror or error}") from error


def _table(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _parse_override(text: str) -> dict[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip() or not all(part.strip() for part in key.split(".")):
        raise InputError(f"'{text}' is not a setting; expected key=value, as in method.scope=fusion")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value.strip()
    for part in reversed(key.strip().split(".")):
        parsed = {part.strip(): parsed}
    return dict(parsed)


class _Checker:
    """Collects every mistake of a recipe."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.mistakes: list[str] = []

    def recipe(self, values: dict[str, Any]) -> Recipe:
        known = list(Recipe.model_fields)
        for key in values:
            if key not in known:
                self.mistakes.append(f"{self.source}: there is no setting '{key}'{did_you_mean(key, known)}")
        method = self.named(values.get("method", {"name": "multidelete"}), "method", METHODS)
        compare = values.get("compare", [])
        if not isinstance(compare, list):
            self.mistakes.append(f"{self.source}: 'compare' must be a list of tables ([[compare]])")
            compare = []
        fields: dict[str, Any] = {
            "task": self.named(values.get("task") or self.task_of(values.get("original")), "task", TASKS),
            "data": self.data(values.get("data", {"reader": "scenes"})),
            "model": self.model(values),
            "original": self.scalar(values, "original", str, None),
            "start": self.start(values),
            "train": self.train(values),
            "forget": self.section(ForgetSettings, values.get("forget", {}), "forget"),
            "method": method,
            "compare": tuple(self.named(each, f"compare[{i}]", METHODS) for i, each in enumerate(compare)),
            "retrain": self.scalar(values, "retrain", bool, True),
            "seed": self.scalar(values, "seed", int, 0),
            "train_seed": self.scalar(values, "train_seed", int, None),
            "method_seed": self.scalar(values, "method_seed", int, None),
            "precision": values.get("precision", "auto"),
            "membership": self.membership(values.get("membership", {})),
            "bench": self.bench(values.get("bench", {})),
        }
        if fields["precision"] not in ("auto", "fp32", "bf16"):
            self.mistakes.append(f"{self.source}: 'precision' must be auto, fp32 or bf16, not {fields['precision']!r}")
        for key in ("seed", "train_seed", "method_seed"):
            if isinstance(fields[key], int) and fields[key] < 0:
                self.mistakes.append(f"{self.source}: '{key}' must not be negative, it is {fields[key]}")
        self.request(fields["forget"])
        for each in (method, *fields["compare"]):
            if each is not None and fields["task"] is not None and fields["task"].name not in each.tasks:
                self.mistakes.append(
                    f"{self.source}: method '{each.name}' does not apply to the task '{fields['task'].name}', "
                    f"only to {', '.join(each.tasks)}"
                )
        self.mask(fields)
        if self.mistakes:
            raise InputError("\n".join(self.mistakes))
        return Recipe(**fields)

    def mask(self, fields: Mapping[str, Any]) -> None:
        """A mask over visual channels needs such channels, and a method that needs it an original that has it."""
        train, model, original = fields["train"], fields["model"], fields["original"]
        asked = train is not None and train.mask is not None
        if asked and model is not None and "vision" not in MODELS[model[0]].modalities:
            self.mistakes.append(
                f"{self.source}: 'train.mask' is about pictures, which a {model[0]} model does not see; leave it out"
            )
        brought = self.brought(original)
        masked = asked if original is None else not brought or brought.get("mask") is not None
        if original is not None and asked and not masked:
            self.mistakes.append(f"{self.source}: 'original' was trained without a mask; leave out 'train.mask'")
        needy = [each for each in (fields["method"], *fields["compare"]) if each is not None and each.needs_mask]
        for method in needy:
            if fields["task"] is None or fields["task"].name not in method.tasks:
                continue  # refused already
            if not masked:
                how = "add a table [train.mask]" if original is None else "train one by a recipe with [train.mask]"
                self.mistakes.append(
                    f"{self.source}: method '{method.name}' needs an original that was trained with a mask; {how}"
                )
            if model is not None and fixed_map(*model):
                self.mistakes.append(
                    f"{self.source}: method '{method.name}' teaches a vision encoder anew, but that of this "
                    f"{model[0]} model is frozen; set freeze = false"
                )

    def brought(self, original: Any) -> dict[str, Any]:
        """The configuration of a model that is brought; empty where it cannot be read, which is refused later."""
        try:
            return read_config(Path(original)) if isinstance(original, str) else {}
        except InputError:
            return {}

    def request(self, forget: ForgetSettings | None) -> None:
        if forget is None:
            return
        given = [key for key in _REQUESTS if getattr(forget, key) is not None]
        if len(given) != 1:
            came = "none is given" if not given else f"{' and '.join(given)} are given"
            self.mistakes.append(f"{self.source}: 'forget' needs one of ids, count and fraction; {came}")

    def membership(self, given: Any) -> MembershipSettings | None:
        membership = self.section(MembershipSettings, given, "membership")
        for name in membership.u_lira if membership else ():
            if name not in METHODS:
                self.mistakes.append(f"{self.source}: 'membership.u_lira': {unknown(name, METHODS, 'method')}")
            elif METHODS[name].needs_mask:
                self.mistakes.append(
                    f"{self.source}: 'membership.u_lira': {name} cannot run on reference models, for it needs a mask "
                    "that was trained for the very pairs that it deletes; leave it out"
                )
        return membership

    def bench(self, given: Any) -> BenchSettings | None:
        bench = self.section(BenchSettings, given, "bench")
        if bench is None:
            return None
        scopes = get_args(Method.model_fields["scope"].annotation)
        names: list[tuple[str, Collection[str], str]]
        names = [(name, METHODS, "method") for name in (*(bench.methods or ()), *bench.settings)]
        names += [(scope, scopes, "scope") for scope in bench.scopes or ()]
        wrong = dict.fromkeys(unknown(name, table, kind) for name, table, kind in names if name not in table)
        self.mistakes += [f"{self.source}: 'bench': {each}" for each in wrong]
        for name, settings in bench.settings.items():
            if "scope" in settings:
                self.mistakes.append(f"{self.source}: 'bench.settings.{name}' has a scope; expected it in bench.scopes")
            elif name in METHODS:
                self.section(METHODS[name], settings, f"bench.settings.{name}", f"method '{name}'")
        return bench

    def scalar(self, values: Mapping[str, Any], key: str, kind: type, default: Any) -> Any:
        value = values.get(key, default)
        if value is not default and (not isinstance(value, kind) or (kind is int and isinstance(value, bool))):
            self.mistakes.append(f"{self.source}: '{key}' must be {_KINDS[kind]}, not {value!r}")
        return value

    def task_of(self, original: Any) -> str:
        """The task that a model which is brought was trained for; retrieval where that cannot be told yet."""
        try:
            fields = self.brought(original)
            return task_for(MODELS[fields["model"]], fields.get("labels", ())) if fields else "retrieval"
        except (InputError, KeyError):  # a folder that is none of ours is refused when the model is loaded
            return "retrieval"

    def start(self, values: Mapping[str, Any]) -> str | None:
        start: str | None = self.scalar(values, "start", str, None)
        if isinstance(start, str):
            if values.get("original") is not None:
                self.mistakes.append(f"{self.source}: 'original' is trained already; leave out 'start'")
            if not Path(start).is_dir() and not (start.endswith(".toml") and Path(start).is_file()):
                self.mistakes.append(
                    f"{self.source}: 'start' is the folder of a model or a recipe (TOML); there is no '{start}'"
                )
        return start

    def train(self, values: Mapping[str, Any]) -> TrainSettings | None:
        if "train" not in values and values.get("original") is not None:
            return None
        return self.section(TrainSettings, values.get("train", {}), "train")

    def data(self, given: Any) -> dict[str, Any]:
        given = {"reader": given} if isinstance(given, str) else given
        if not isinstance(given, dict) or not isinstance(given.get("reader"), str):
            self.mistakes.append(f"{self.source}: 'data' needs a reader, one of {', '.join(READERS)}")
            return {}
        if given["reader"] not in READERS:
            self.mistakes.append(f"{self.source}: {unknown(given['reader'], READERS, 'reader')}")
            return {}
        options = {key: value for key, value in given.items() if key != "reader"}
        self.mistakes += [f"{self.source}: {mistake}" for mistake in mistakes(given["reader"], options)]
        return given

    def model(self, values: Mapping[str, Any]) -> tuple[str, ModelConfig] | None:
        given = values.get("model")
        if values.get("original") is not None:
            if given is not None:
                self.mistakes.append(
                    f"{self.source}: 'original' brings a model of its own; leave out the table 'model'"
                )
            return None
        result = self.entry("albef" if given is None else given, "model", MODELS, "model")
        config = result and self.section(MODELS[result[0]].config_class, result[1], "model")
        return (result[0], config) if result and config else None

    def named(self, given: Any, place: str, table: Mapping[str, type[T]]) -> T | None:
        """An entry of a table with its settings, from a name or a table that has one."""
        kind = place.split("[")[0].replace("compare", "method")
        result = self.entry(given, place, table, kind)
        return result and self.section(table[result[0]], result[1], place, f"{kind} '{result[0]}'")

    def entry(
        self, given: Any, place: str, table: Mapping[str, object], kind: str
    ) -> tuple[str, dict[str, Any]] | None:
        """The name of an entry and its settings, from a name or a table that has one."""
        fields = {"name": given} if isinstance(given, str) else given
        if not isinstance(fields, dict) or not isinstance(fields.get("name"), str):
            self.mistakes.append(f"{self.source}: '{place}' needs a name, one of {', '.join(table)}")
        elif fields["name"] not in table:
            self.mistakes.append(f"{self.source}: {unknown(fields['name'], table, kind)}")
        else:
            return fields["name"], {key: value for key, value in fields.items() if key != "name"}
        return None

    def section(self, kind: type[T], given: Any, place: str, owner: str | None = None) -> T | None:
        if not isinstance(given, dict):
            self.mistakes.append(f"{self.source}: '{place}' must be a table, not {given!r}")
            return None
        try:
            return kind.model_validate(given)
        except ValidationError as error:
            self.mistakes += [f"{self.source}: {line}" for line in sentences(error, kind, place, owner)]
            return None


def fixed_map(name: str, config: ModelConfig) -> bool:
    """Whether what a model sees of a picture cannot change: its vision backbone is frozen, and no adapter follows."""
    backbone = getattr(config, "vision", getattr(config, "encoder", None))
    return bool(backbone and backbone.freeze) and "vision_adapter" not in MODELS[name].parts["vision"]


_KINDS: dict[type, str] = {str: "a string", bool: "true or false", int: "a whole number"}


def sentences(error: ValidationError, kind: type[BaseModel], place: str, owner: str | None) -> Iterator[str]:
    """What pydantic found, in our words: the setting, what came, what was expected, what may have been meant."""
    result: dict[str, list[str]] = {}
    came: dict[str, str] = {}
    for mistake in error.errors():
        path = [str(part) for part in mistake["loc"]]
        if mistake["type"] == "extra_forbidden":
            options = _fields_at(kind, path[:-1])
            hint = did_you_mean(path[-1], options) or f"; it has {', '.join(options)}"
            inner = ".".join([place, *path[:-1]])
            yield f"{owner if owner and len(path) == 1 else repr(inner)} has no setting '{path[-1]}'{hint}"
            continue
        # Where a setting may be of several types, pydantic adds the type to the path: a mistake is told once.
        depth = next((i for i in range(len(path)) if path[i] not in _fields_at(kind, path[:i])), len(path))
        where = ".".join([place, *path[:depth]])
        message = mistake["msg"].removeprefix("Input ")
        if mistake["type"] == "value_error":  # a sentence of ours
            message = f": {mistake['ctx']['error']}"
        elif mistake["type"] == "missing" and depth < len(path):
            message = " has too few values"
        else:
            message = f" {message[0].lower()}{message[1:]}"
        result.setdefault(where, []).append(message)
        if mistake["type"] == "missing" or isinstance(mistake["input"], dict):
            came[where] = ""
        elif mistake["type"] == "literal_error" and isinstance(mistake["input"], str):
            named = re.findall(r"'(.+?)'", str(mistake.get("ctx", {}).get("expected", "")))
            came[where] = f", got {mistake['input']!r}{did_you_mean(mistake['input'], named)}"
        else:
            came[where] = f", got {mistake['input']!r}"
    for where, messages in result.items():
        first, *others = dict.fromkeys(messages)
        expected = " or".join([first, *(other.removeprefix(" should be") for other in others)])
        yield f"'{where}'{expected}{came[where]}"


def _fields_at(kind: type[BaseModel], path: Sequence[str]) -> list[str]:
    for part in path:
        annotation = kind.model_fields[part].annotation if part in kind.model_fields else None
        options = get_args(annotation) if get_origin(annotation) is UnionType else (annotation,)
        inner = [each for each in options if isinstance(each, type) and issubclass(each, BaseModel)]
        if not inner:
            return []
        kind = inner[0]
    return list(kind.model_fields)
