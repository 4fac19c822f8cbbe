"""Groups of rows that differ only in their seeds, with labels, means and standard deviations."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from multidelete.runs.differences import Difference, paired
from multidelete.runs.reader import Run, numbers
from multidelete.runs.row import Row, Seeds, values_of
from multidelete.utils.format import signed

COMPARISON_KEYS = ("task", "data", "model", "forget_examples")  # rows are comparable if these are equal
BASELINES = ("original", "retrain", "unimodal")  # always listed first, in this order; they unlearn nothing
PREPARED = 0.05  # minimum share of the time for which preparation is shown separately
TERMS = {"alpha": "MD", "beta": "MKR", "gamma": "UKR"}  # weight of MultiDelete -> its loss term
SYMBOLS = {"alpha": "α", "beta": "β", "gamma": "γ", "retain_mismatched": "mismatched", "learning_rate": "lr"}


def label(row: Row, rows: Iterable[Row]) -> str:
    """Shortest label of ``row`` that is unique among ``rows``.

    >>> named = {"method": "multidelete", "title": "MultiDelete", "scope": "fusion"}
    >>> plain = {**named, "settings": {"alpha": 1.0, "epochs": 2}}
    >>> ablated = {**plain, "settings": {"alpha": 0.0, "epochs": 2}}
    >>> longer = {**plain, "settings": {"alpha": 1.0, "epochs": 4}}
    >>> [label(row, [plain, ablated]) for row in (plain, ablated)]
    ['MultiDelete-F', 'MultiDelete-F − MD']
    >>> label(longer, [plain, ablated, longer])
    'MultiDelete-F, epochs = 4'
    >>> near = {**plain, "settings": {"alpha": 1.0, "epochs": 2, "retain_near": 0.5}}  # only stored if it is not 0
    >>> [label(row, [plain, near]) for row in (plain, near)]
    ['MultiDelete-F', 'MultiDelete-F, retain near = 0.5']
    """
    rows = list(rows)
    name = _name(row, rows)
    rivals = [other["settings"] for other in rows if _name(other, rows) == name]
    differing = [
        f"{SYMBOLS.get(key, key.replace('_', ' '))} = {_value(row['settings'][key])}"
        for key in sorted({key for settings in rivals for key in settings} - {"seed"}, key=_rank)
        if key in row["settings"] and any(settings.get(key) != row["settings"][key] for settings in rivals)
    ]
    return ", ".join([name, *differing])


def _name(row: Row, rows: Iterable[Row]) -> str:
    method, scope, settings = row["method"], row["scope"], row["settings"]
    name = str(row["title"])
    if method == "unimodal":
        return f"Only {settings['modality']}"
    if method in BASELINES:
        extra = settings.get("extra")
        return f"{name} (with {str(extra['name']).replace('_', ' ')})" if extra else name
    name += {"all": "", "fusion": "-F"}.get(scope, f" ({scope})")
    if method != "multidelete":
        return name
    without = _without(settings)
    if without:
        return " ".join([name, *(f"− {term}" for term in without)])
    tuned = (
        other["method"] == method
        and other["scope"] == scope
        and not _without(other["settings"])
        and not _is_paper(other["settings"])
        for other in rows
    )
    return f"{name} (paper, α = β = γ = 1)" if _is_paper(settings) and any(tuned) else name


def _without(settings: Mapping[str, Any]) -> list[str]:
    return [term for weight, term in TERMS.items() if settings.get(weight) == 0]


def _is_paper(settings: Mapping[str, Any]) -> bool:
    ours = settings.get("retain_mismatched") or settings.get("similarity")
    return all(settings.get(weight) == 1 for weight in TERMS) and not ours


def _rank(key: str) -> tuple[int, str]:
    return (list(SYMBOLS).index(key) if key in SYMBOLS else len(SYMBOLS), key)


def _value(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation of ``n`` values; one value has no deviation."""

    mean: float
    sd: float | None
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Spread of at least one value.

        >>> Spread.of([70.0, 72.0, 74.0])
        Spread(mean=72.0, sd=2.0, n=3)
        >>> Spread.of([70.0])
        Spread(mean=70.0, sd=None, n=1)
        """
        sd = statistics.stdev(values) if len(values) > 1 else None
        return cls(statistics.fmean(values), sd, len(values))

    def __str__(self) -> str:
        return self.text()

    def text(self, digits: int = 1) -> str:
        """Mean ± standard deviation as text."""
        return signed(self.mean, digits) + ("" if self.sd is None else f" ± {self.sd:.{digits}f}")


@dataclass(frozen=True)
class Group:
    """Rows that differ only in their seeds."""

    rows: tuple[Row, ...]
    metrics: Mapping[str, Spread]
    cost: Mapping[str, Spread]

    @classmethod
    def of(cls, rows: Sequence[Row]) -> Group:
        """Group of ``rows`` with the spread of each metric and cost."""
        return cls(tuple(rows), _spreads(rows, "metrics"), _spreads(rows, "cost"))

    @property
    def first(self) -> Row:
        """First row, for values that all rows share."""
        return self.rows[0]

    @property
    def method(self) -> str:
        """Registered name of the method."""
        return str(self.first["method"])

    @property
    def unchanged(self) -> bool:
        """Whether the method left every model as it was."""
        return all(row.get("unchanged", False) for row in self.rows)

    @property
    def note(self) -> str:
        """Why, in a sentence; of the first run."""
        return str(self.first.get("note", ""))

    @property
    def color(self) -> str:
        """Color of the method in figures."""
        return str(self.first["color"])

    @property
    def comparison_key(self) -> tuple[Any, ...]:
        """Values of ``COMPARISON_KEYS``; only groups with the same key may be compared."""
        return tuple(values_of(self.first, COMPARISON_KEYS))

    @property
    def seeds(self) -> list[Seeds]:
        """Sorted seeds of the rows with metrics; failed cells of a bench have none."""
        return sorted({Seeds.of(row) for row in self.rows if row["metrics"]})

    def spread(self, key: str) -> Spread | None:
        """Spread of a metric or a cost."""
        return self.metrics.get(key) or self.cost.get(key)

    @property
    def seconds(self) -> float | None:
        """Mean time of preparation and updates, without evaluation."""
        if "update_seconds" not in self.cost:
            return None
        prepare = self.cost.get("prepare_seconds")
        return self.cost["update_seconds"].mean + (prepare.mean if prepare else 0.0)

    @property
    def prepared(self) -> float | None:
        """Mean time of preparation, or None if it is too short to be shown separately."""
        prepare = self.cost.get("prepare_seconds")
        return prepare.mean if prepare and self.seconds and prepare.mean >= PREPARED * self.seconds else None


def _spreads(rows: Sequence[Row], part: Literal["metrics", "cost"]) -> dict[str, Spread]:
    values: dict[str, list[float]] = {}
    for row in rows:
        for key, value in numbers(row[part]).items():
            values.setdefault(key, []).append(value)
    return {key: Spread.of(result) for key, result in values.items()}


def summary(runs: Iterable[Run]) -> list[Group]:
    """Groups of the rows of all runs; Original and Retrain first.

    Runs of several methods or unlearning seeds share Original and Retrain, which count once.
    """
    result: dict[str, list[Row]] = {}
    for run in runs:
        for row in run.rows:
            settings = {key: value for key, value in row["settings"].items() if key != "seed"}
            same = [*values_of(row, COMPARISON_KEYS), row["method"], row["scope"], settings]
            rows = result.setdefault(json.dumps(same, sort_keys=True, default=str), [])
            if row["method"] not in BASELINES or Seeds.of(row).shared not in [Seeds.of(each).shared for each in rows]:
                rows.append(row)
    return in_order(Group.of(rows) for rows in result.values())


def in_order(groups: Iterable[Group]) -> list[Group]:
    """Groups sorted by comparison key; within a key, Original and Retrain come first. The sort is stable."""
    groups = list(groups)
    comparison_keys = list(dict.fromkeys(group.comparison_key for group in groups))

    def rank(group: Group) -> tuple[int, int]:
        baseline = BASELINES.index(group.method) if group.method in BASELINES else len(BASELINES)
        return comparison_keys.index(group.comparison_key), baseline

    return sorted(groups, key=rank)


def labels(groups: Sequence[Group]) -> list[str]:
    """Label of each group among those with the same comparison key."""
    return [
        label(g.first, [other.first for other in groups if other.comparison_key == g.comparison_key]) for g in groups
    ]


def reference(groups: Iterable[Group], method: str, comparison_key: tuple[Any, ...] | None = None) -> Group | None:
    """Group of Original or Retrain (with the given comparison key), or None."""
    return next((g for g in groups if g.method == method and comparison_key in (None, g.comparison_key)), None)


def differences(group: Group, groups: Iterable[Group], method: str = "retrain") -> dict[str, Difference]:
    """Paired differences of a group to Retrain (or Original) with the same comparison key, by metric."""
    aim = reference(groups, method, group.comparison_key)
    return paired(group.rows, aim.rows) if aim is not None and group.method != method else {}


def comparison_title(comparison_key: tuple[Any, ...]) -> str:
    """Comparison key as one line of text.

    >>> comparison_title(("retrieval", "scenes", "albef", 400))
    'retrieval · scenes · albef · 400 examples deleted'
    """
    task, data, model, forget_examples = comparison_key
    return f"{task} · {data} · {model} · {forget_examples:,} examples deleted"
