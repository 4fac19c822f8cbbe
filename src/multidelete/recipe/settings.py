"""Tables of a recipe for the deletion request, bench and membership attacks."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from multidelete.data.requests import KINDS
from multidelete.methods import METHODS, Method
from multidelete.models.extras import EXTRAS
from multidelete.recipe.errors import sentences
from multidelete.training.extras import Extra
from multidelete.utils.entries import Entry, MistakesError
from multidelete.utils.registry import unknown

MIN_REFERENCES = 4  # for U-LiRA: each reference model is compared with the others
SIZES = ("counts", "fractions")


class ForgetSettings(BaseModel):
    """Deletion request: names, a group, a condition, row numbers, or a sample of the training examples.

    Args:
        ids: File with names (text, CSV, JSON), or a list of them. A name is an id, a file name, a path, ``NAME#2`` for
            one text, or (image, text).
        group: ``NAME=VALUE`` of the metadata, or several.
        where: Condition on the metadata, such as ``licence == "NC" and year < 2015``.
        rows: File with numbers of training pairs, from 0, or a list of them; with ``count``, its first entries.
        count: Size of a seeded sample.
        fraction: Size of a seeded sample, as a fraction.
        pairs: Size of a seeded sample of single pairs, each of another example.
        column: Column of the names in a table.
        bare: The number, if one was given alone on the command line; it is refused if it is also an id.
        seed: Seed of the sample; the recipe's by default.
        part: ``[2, 5]`` for the second of five parts of this request, in its order; the first has been deleted already.
        earlier: File or list of ids that were deleted from a user-provided model before. They are not in D_f and D_r,
            but are evaluated together with D_f.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    ids: str | list[str | tuple[str, str]] | None = None
    group: str | list[str] | None = None
    where: str | None = None
    rows: str | list[int] | None = None
    count: int | None = Field(default=None, ge=1, strict=True)
    fraction: float | None = Field(default=None, gt=0, lt=1)
    pairs: int | None = Field(default=None, ge=1, strict=True)
    column: str | None = None
    bare: str | None = Field(default=None, exclude=True)
    seed: int | None = Field(default=None, ge=0, strict=True)
    part: tuple[int, int] | None = None
    earlier: str | list[str] | None = None

    @model_validator(mode="after")
    def _one_request(self) -> Self:
        given = [key for key in KINDS if getattr(self, key) is not None]
        if self.rows is not None and "count" in given:
            given.remove("count")
        if len(given) != 1:
            received = "none is given" if not given else f"{' and '.join(given)} are given"
            raise MistakesError(f"'forget' needs one of {', '.join(KINDS)}; {received}")
        return self


class BenchSettings(BaseModel):
    """Grid of ``multidelete bench``: methods × scopes × sizes × seeds, on the recipe's task.

    Args:
        methods: Names; by default all unlearning methods that support the task. Original and Retrain are always added.
        scopes: By default "all" and "fusion", if a method has them; methods without "all" use their encoder scope.
        seeds: Seeds of weights, training, deletion set and unlearning; seeds that the recipe sets are kept, so that one
            can be varied separately (``train_seed=0 forget.seed=0``: unlearning).
        counts: Sizes of D_f; by default the recipe's request.
        fractions: Sizes of D_f as fractions, instead of counts.
        settings: Settings by method name; they override the recipe's tables of this method and scope.
        extra: Extra module for methods that require one, if the recipe's original has none: they get another original,
            with its own row.
        cluster: Parameters of submitit (``timeout_min``, ``slurm_partition``, ...); ``cluster`` selects the executor.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    methods: tuple[str, ...] | None = None
    scopes: tuple[str, ...] | None = None
    seeds: tuple[Annotated[int, Field(ge=0, strict=True)], ...] = (0, 1, 2)
    counts: tuple[Annotated[int, Field(ge=1, strict=True)], ...] | None = None
    fractions: tuple[Annotated[float, Field(gt=0, lt=1)], ...] | None = None
    settings: dict[str, dict[str, Any]] = {}
    extra: Annotated[Extra, Entry(EXTRAS, "extra module")] | None = None
    cluster: dict[str, Any] = {}

    @field_validator("methods", "scopes", "seeds", "counts", "fractions")
    @classmethod
    def _some_and_each_once(cls, given: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
        if given is not None and not given:
            raise ValueError("the list is empty; remove it for the default")
        twice = next((each for i, each in enumerate(given or ()) if each in (given or ())[:i]), None)
        if twice is not None:
            raise ValueError(f"{twice!r} is given twice")
        return given

    @model_validator(mode="after")
    def _one_kind_of_size(self) -> Self:
        if self.counts is not None and self.fractions is not None:
            raise ValueError("sizes are given by one of counts and fractions, not by both")
        return self

    @model_validator(mode="after")
    def _known_names(self) -> Self:
        scopes = get_args(Method.model_fields["scope"].annotation)
        names: list[tuple[str, Collection[str], str]]
        names = [(name, METHODS, "method") for name in (*(self.methods or ()), *self.settings)]
        names += [(scope, scopes, "scope") for scope in self.scopes or ()]
        wrong = dict.fromkeys(unknown(name, table, kind) for name, table, kind in names if name not in table)
        mistakes = [f"'bench': {each}" for each in wrong]
        for name, settings in self.settings.items():
            if "scope" in settings:
                mistakes.append(f"'bench.settings.{name}' has a scope; expected it in bench.scopes")
            elif name in METHODS:
                try:
                    METHODS[name].model_validate(settings)
                except ValidationError as error:
                    mistakes += sentences(error, METHODS[name], f"bench.settings.{name}", f"method '{name}'")
        if mistakes:
            raise MistakesError(*mistakes)
        return self


class MembershipSettings(BaseModel):
    """Settings of membership attacks.

    Args:
        shadow: Whether to train a shadow model, like the original on half of the examples, for attackers to learn from.
        references: Number of reference models for LiRA and RMIA, trained on complementary halves of the examples; each
            takes about half as long as the original.
        u_lira: Names of methods to attack with U-LiRA; each also runs on every reference model.
        resamples: Number of bootstrap samples of each interval.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    shadow: bool = True
    references: int = Field(default=0, ge=0, multiple_of=2, strict=True)
    u_lira: tuple[str, ...] = ()
    resamples: int = Field(default=1000, ge=100, strict=True)

    @model_validator(mode="after")
    def _enough_for_u_lira(self) -> Self:
        if self.u_lira and self.references < MIN_REFERENCES:
            raise ValueError(
                f"u_lira needs at least {MIN_REFERENCES} reference models, references is {self.references}"
            )
        return self

    @field_validator("u_lira")
    @classmethod
    def _known_methods(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in METHODS:
                raise MistakesError(f"'membership.u_lira': {unknown(name, METHODS, 'method')}")
            if any(EXTRAS[extra].uses_request for extra in METHODS[name].requires & EXTRAS.keys()):
                raise MistakesError(
                    f"'membership.u_lira': {name} cannot run on reference models, because it needs a model "
                    "that was trained for the same deletion; remove it"
                )
        return names
