"""Turns the rows of runs into labelled tables; several seeds become mean ± deviation."""

from __future__ import annotations

import csv
import io
import json
import statistics
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any

from rich import box
from rich.console import Console, RenderableType
from rich.console import Group as Stacked
from rich.table import Table
from rich.text import Text

from multidelete.runs.differences import Difference, paired
from multidelete.runs.reader import Row as Row
from multidelete.runs.reader import Run as Run
from multidelete.runs.reader import Seeds, numbers

COMPARISON_KEYS = ("task", "data", "model", "forget_examples")  # only rows that agree in these may be compared
BASELINES = ("original", "retrain", "unimodal")  # always listed first, in this order; they unlearn nothing

NAMES = {
    "original": "Original",
    "retrain": "Retrain",
    "unimodal": "Single modality",
    "finetune": "FineTune",
    "neggrad": "NegGrad",
    "neggrad_plus": "NegGrad+",
    "descent_to_delete": "DtD",
    "lcodec": "L-CODEC",
    "erm_ktp": "ERM-KTP",
    "knowledge_unlearning": "UL",
    "scrub": "SCRUB",
    "salun": "SalUn",
    "ssd": "SSD",
    "bad_teacher": "Bad Teacher",
    "random_label": "Random Label",
    "npo": "NPO",
    "l1_sparse": "L1-sparse",
    "multidelete": "MultiDelete",
}
PREPARED = 0.05  # share of its time from which preparation is told apart
TERMS = {"alpha": "MD", "beta": "MKR", "gamma": "UKR"}  # weight of MultiDelete -> the term it weighs
SYMBOLS = {"alpha": "α", "beta": "β", "gamma": "γ", "retain_mismatched": "mismatched", "learning_rate": "lr"}


# --- labels ---------------------------------------------------------------------------------------


def label(row: Row, rows: Iterable[Row]) -> str:
    """The name of ``row`` among ``rows``: as short as it can be without standing for two of them.

    >>> plain = {"method": "multidelete", "scope": "fusion", "settings": {"alpha": 1.0, "epochs": 2}}
    >>> ablated = {**plain, "settings": {"alpha": 0.0, "epochs": 2}}
    >>> longer = {**plain, "settings": {"alpha": 1.0, "epochs": 4}}
    >>> [label(row, [plain, ablated]) for row in (plain, ablated)]
    ['MultiDelete-F', 'MultiDelete-F − MD']
    >>> label(longer, [plain, ablated, longer])
    'MultiDelete-F, epochs = 4'
    """
    rows = list(rows)
    name = _name(row, rows)
    rivals = [other["settings"] for other in rows if _name(other, rows) == name]
    differing = [
        f"{SYMBOLS.get(key, key.replace('_', ' '))} = {_value(row['settings'].get(key))}"
        for key in sorted({key for settings in rivals for key in settings} - {"seed"}, key=_rank)
        if any(settings.get(key) != row["settings"].get(key) for settings in rivals)
    ]
    return ", ".join([name, *differing])


def _name(row: Row, rows: Iterable[Row]) -> str:
    method, scope, settings = row["method"], row["scope"], row["settings"]
    name = NAMES.get(method, str(method).replace("_", " ").title())
    if method == "unimodal":
        return f"Only {settings['modality']}"
    if method in BASELINES:
        return f"{name} (with mask)" if settings.get("mask") else name
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


# --- rows of several seeds ------------------------------------------------------------------------


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation of ``n`` values; one value has no deviation."""

    mean: float
    sd: float | None
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of at least one value.

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
        """Mean ± deviation with so many digits."""
        return signed(self.mean, digits) + ("" if self.sd is None else f" ± {self.sd:.{digits}f}")


@dataclass(frozen=True)
class Group:
    """The rows that differ in nothing but their seeds: repeats of one experiment."""

    rows: tuple[Row, ...]
    metrics: Mapping[str, Spread]
    cost: Mapping[str, Spread]

    @classmethod
    def of(cls, rows: Sequence[Row]) -> Group:
        """The group of ``rows``, with the spread of each number they have."""
        return cls(tuple(rows), _spreads(rows, "metrics"), _spreads(rows, "cost"))

    @property
    def first(self) -> Row:
        """The row that stands for what all have in common."""
        return self.rows[0]

    @property
    def method(self) -> str:
        """The registered name of the method."""
        return str(self.first["method"])

    @property
    def comparison_key(self) -> tuple[Any, ...]:
        """What was asked; only rows that answer the same question may be compared."""
        return tuple(self.first[key] for key in COMPARISON_KEYS)

    @property
    def seeds(self) -> list[Seeds]:
        """The seeds of the rows that have metrics, sorted; a cell of a bench that failed has none."""
        return sorted({Seeds.of(row) for row in self.rows if row["metrics"]})

    def spread(self, key: str) -> Spread | None:
        """A metric or a cost."""
        return self.metrics.get(key) or self.cost.get(key)

    @property
    def seconds(self) -> float | None:
        """Mean time that it took: preparation and updates, without evaluation."""
        if "update_seconds" not in self.cost:
            return None
        prepare = self.cost.get("prepare_seconds")
        return self.cost["update_seconds"].mean + (prepare.mean if prepare else 0.0)

    @property
    def prepared(self) -> float | None:
        """Mean time of preparation, where it is worth being told apart."""
        prepare = self.cost.get("prepare_seconds")
        return prepare.mean if prepare and self.seconds and prepare.mean >= PREPARED * self.seconds else None


def _spreads(rows: Sequence[Row], part: str) -> dict[str, Spread]:
    values: dict[str, list[float]] = {}
    for row in rows:
        for key, value in numbers(row[part]).items():
            values.setdefault(key, []).append(value)
    return {key: Spread.of(result) for key, result in values.items()}


def summary(runs: Iterable[Run]) -> list[Group]:
    """The rows of all runs, those put together that differ only in their seeds; Original and Retrain first.

    Runs of several methods, or of several seeds of unlearning, have Original and Retrain in common: these count once.
    """
    result: dict[str, list[Row]] = {}
    for run in runs:
        for row in run.rows:
            settings = {key: value for key, value in row["settings"].items() if key != "seed"}
            same = [*(row[key] for key in COMPARISON_KEYS), row["method"], row["scope"], settings]
            rows = result.setdefault(json.dumps(same, sort_keys=True, default=str), [])
            if row["method"] not in BASELINES or Seeds.of(row).shared not in [Seeds.of(each).shared for each in rows]:
                rows.append(row)
    return in_order(Group.of(rows) for rows in result.values())


def in_order(groups: Iterable[Group]) -> list[Group]:
    """Original, Retrain, then the others as they came; one question after the other."""
    groups = list(groups)
    comparison_keys = list(dict.fromkeys(group.comparison_key for group in groups))

    def place(group: Group) -> tuple[int, int]:
        baseline = BASELINES.index(group.method) if group.method in BASELINES else len(BASELINES)
        return comparison_keys.index(group.comparison_key), baseline

    return sorted(groups, key=place)


def labels(groups: Sequence[Group]) -> list[str]:
    """The label of each group among those that answer the same question."""
    return [
        label(g.first, [other.first for other in groups if other.comparison_key == g.comparison_key]) for g in groups
    ]


def reference(groups: Iterable[Group], method: str, comparison_key: tuple[Any, ...] | None = None) -> Group | None:
    """The group of Original or Retrain (that answers ``question``), if there is one."""
    return next((g for g in groups if g.method == method and comparison_key in (None, g.comparison_key)), None)


# --- numbers as text ------------------------------------------------------------------------------


def signed(value: float, digits: int = 1, *, plus: bool = False) -> str:
    """A number with a real minus sign, and with a plus where that is asked for; never "−0.0".

    >>> signed(-1.26), signed(-0.01), signed(2, plus=True)
    ('−1.3', '0.0', '+2.0')
    """
    text = f"{value:{'+' if plus else ''}.{digits}f}"
    if float(text) == 0:
        text = f"{0:.{digits}f}"
    return text.replace("-", "−")


def duration(seconds: float, sd: float | None = None) -> str:
    """A time in the example that suits it.

    >>> duration(0.42), duration(34.2), duration(336, 12), duration(9000)
    ('0.42 s', '34 s', '5.6 ± 0.2 min', '2.5 h')
    """
    size, example = next((s, u) for s, u in ((3600, "h"), (60, "min"), (1, "s")) if seconds >= 2 * s or s == 1)
    value = seconds / size
    digits = 2 if value < 1 else 1 if value < 10 else 0
    spread = "" if sd is None else f" ± {sd / size:.{digits}f}"
    return f"{value:.{digits}f}{spread} {example}"


def percent(fraction: float) -> str:
    """A fraction as a percentage with two digits or so.

    >>> percent(0.0613), percent(1.25)
    ('6.1 %', '125 %')
    """
    return f"{100 * fraction:.{0 if fraction >= 0.0995 else 1}f} %"


# --- tables ---------------------------------------------------------------------------------------

NONE = "–"


def _metric(key: str) -> Callable[[Group, Group | None], str]:
    return lambda group, retrain: str(group.metrics.get(key, NONE))


def _update_time(group: Group, retrain: Group | None) -> str:
    seconds, prepared = group.cost.get("update_seconds"), group.prepared
    if seconds is None:
        return NONE
    return duration(seconds.mean, seconds.sd) + (f" (+ {duration(prepared)})" if prepared else "")


def _share_of_retrain(group: Group, retrain: Group | None) -> str:
    own, whole = group.seconds, retrain.seconds if retrain else None
    return NONE if group.method == "original" or own is None or not whole else percent(own / whole)


def _mi_ratios(group: Group, retrain: Group | None) -> str:
    """On D_r beside D_f: a model that was destroyed lets no pair be recognised, be it deleted or kept."""
    result = [group.metrics.get(key) for key in ("mi_ratio", "mi_ratio_retain")]
    return " / ".join(NONE if each is None else each.text(2) for each in result) if any(result) else NONE


def _attack(group: Group, retrain: Group | None) -> str:
    """The AUC of the attack that tells most: that farthest from chance, which may lie below it."""
    aucs = [each for key, each in group.metrics.items() if key.startswith("attack_") and key.endswith("_auc")]
    return str(max(aucs, key=lambda each: abs(each.mean - 50), default=NONE))


TIMES = "A time in parentheses is preparation, beside that of parameter updates; the share of Retrain counts both."
COLUMNS: dict[str, Callable[[Group, Group | None], str]] = {
    "Test score ↑": _metric("test_score"),
    "D_r score": _metric("retain_score"),
    "D_f score": _metric("forget_score"),
    "D_f AUC ↓": _metric("forget_auc"),
    "D_f vs test AUC (≈ Retrain)": _metric("forget_test_auc"),
    "MI ratio D_f ↑ / D_r": _mi_ratios,
    "Attack AUC": _attack,
    "Gap to Retrain ↓": _metric("gap_to_retrain"),
    "Update time": _update_time,
    "of Retrain": _share_of_retrain,
}
OF_ATTACKS = ("MI ratio D_f ↑ / D_r", "Attack AUC")  # columns for runs that were attacked


def columns(groups: Sequence[Group]) -> dict[str, Callable[[Group, Group | None], str]]:
    """``COLUMNS``, without those of attacks where no group was attacked."""
    left_out = {name for name in OF_ATTACKS if all(COLUMNS[name](group, None) == NONE for group in groups)}
    return {heading: column for heading, column in COLUMNS.items() if heading not in left_out}


def cells(groups: Sequence[Group]) -> list[list[str]]:
    """For each group its label, ``columns`` and, where there are several seeds, how many."""
    several = any(len(group.rows) > 1 for group in groups)
    shown = columns(groups).values()
    return [
        [name, *(column(group, reference(groups, "retrain", group.comparison_key)) for column in shown)]
        + ([str(len(group.rows))] if several else [])
        for name, group in zip(labels(groups), groups, strict=True)
    ]


def ablation(groups: Sequence[Group]) -> list[list[str]]:
    """MultiDelete whole and without each term: label, test score and D_f AUC, and how far each is from the whole."""
    lines = []
    named = dict(zip(labels(groups), groups, strict=True))
    for name, whole in named.items():
        parts = {label: group for label, group in named.items() if group is not whole and _is_part(group, whole)}
        for label, group in {name: whole, **parts}.items() if parts else ():
            line = [label]
            for key in ("test_score", "forget_auc", "forget_test_auc"):
                own, full = (each.metrics.get(key) for each in (group, whole))
                apart = f" ({signed(own.mean - full.mean, plus=True)})" if own and full and group is not whole else ""
                line.append(f"{own or NONE}{apart}")
            lines.append([*line, str(len(group.rows))])
    return lines


def _is_part(group: Group, whole: Group) -> bool:
    """Whether one is the other with the weight of one term or several at 0."""
    if group.method != "multidelete" or whole.method != "multidelete" or group.comparison_key != whole.comparison_key:
        return False
    settings, full = (each.first["settings"] for each in (group, whole))
    without = [weight for weight in TERMS if settings.get(weight) == 0 != full.get(weight)]
    same = {**full, **dict.fromkeys(without, 0)} == dict(settings)
    return bool(without) and same and group.first["scope"] == whole.first["scope"]


def headings(groups: Sequence[Group]) -> list[str]:
    """The headings that go with ``cells``."""
    return ["Method", *columns(groups)] + (["Seeds"] if any(len(group.rows) > 1 for group in groups) else [])


def differences(group: Group, groups: Iterable[Group], method: str = "retrain") -> dict[str, Difference]:
    """How far a group lies from the Retrain (or Original) among ``groups`` that answers its question, by metric."""
    aim = reference(groups, method, group.comparison_key)
    return paired(group.rows, aim.rows) if aim is not None and group.method != method else {}


def comparison_title(comparison_key: tuple[Any, ...]) -> str:
    """What was asked, in one line.

    >>> comparison_title(("retrieval", "scenes", "albef", 400))
    'retrieval · scenes · albef · 400 examples deleted'
    """
    task, data, model, forget_examples = comparison_key
    return f"{task} · {data} · {model} · {forget_examples:,} examples deleted"


def _title(comparison_key: tuple[Any, ...], groups: Sequence[Group]) -> str:
    """What was asked, and how often where no column says it."""
    return comparison_title(comparison_key) + ("" if any(len(group.rows) > 1 for group in groups) else " · n = 1")


def rows_table(run: Run) -> RenderableType:
    """The rows of one run, each by itself, for the terminal."""
    return summary_table([Group.of([row]) for row in run.rows])


def summary_table(groups: Sequence[Group]) -> RenderableType:
    """The groups for the terminal; where they answer several questions, each has its part of the table.

    What attacks found stands in a table below: both are narrow enough for a terminal of 80 columns.
    """
    parts = _by_comparison(groups)
    groups = [group for part in parts.values() for group in part]
    named, rows = headings(groups), cells(groups)
    below = [i for i, heading in enumerate(named) if heading in OF_ATTACKS]
    shown = [(_title(next(iter(parts)), groups) if len(parts) == 1 else None, set(range(len(named))) - {*below})]
    shown += [("membership attacks", {0, *below})] if below else []
    tables = []
    for title, places in shown:
        table = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False, title=title)
        for i in sorted(places):
            table.add_column("\n".join(textwrap.wrap(named[i], 8)), justify="right" if i else "left")
        lines = iter(rows)
        for comparison_key, part in parts.items():
            if len(parts) > 1:
                table.add_section()
                table.add_row(Text(_title(comparison_key, groups), style="bold"))
            for _ in part:
                line = next(lines)
                table.add_row(*(Text(line[i]) for i in sorted(places)))
        tables.append(table)
    return Stacked(*tables)


def to_text(groups: Sequence[Group], width: int = 140) -> str:
    """The summary as plain text."""
    return as_text(summary_table(groups), width)


def as_text(table: RenderableType, width: int = 140) -> str:
    """A table as plain text."""
    console = Console(file=io.StringIO(), width=width, color_system=None, legacy_windows=False)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def to_markdown(groups: Sequence[Group]) -> str:
    """The summary as Markdown, one table per question."""
    blocks = []
    for comparison_key, part in _by_comparison(groups).items():
        blocks.append(f"**{_title(comparison_key, part)}**\n\n{markdown(headings(part), cells(part))}")
    return "\n".join(blocks)


def markdown(headings: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table in Markdown, whose first column is text and whose others are numbers."""
    written = [headings, ["---", *["---:"] * (len(headings) - 1)], *lines]
    escaped = [[cell.replace("|", "\\|") for cell in line] for line in written]
    return "".join(f"| {' | '.join(line)} |\n" for line in escaped)


def to_csv(groups: Sequence[Group]) -> str:
    """The summary as CSV: every metric and cost as ``_mean``, ``_sd`` (empty for one seed) and ``_n``.

    Metrics also as paired differences ``_to_retrain_mean`` with the ends ``_low`` and ``_high`` of their 95 % interval
    (empty for fewer than three pairs) and ``_n``.
    """
    keys = list(dict.fromkeys(key for group in groups for key in [*group.metrics, *group.cost]))
    compared = [differences(group, groups) for group in groups]
    apart = list(dict.fromkeys(key for result in compared for key in result))
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    common = ["task", "data", "model", "method", "scope", "forget_examples"]
    numbered = [f"{key}_{part}" for key in keys for part in ("mean", "sd", "n")]
    numbered += [f"{key}_to_retrain_{part}" for key in apart for part in ("mean", "low", "high", "n")]
    writer.writerow(["label", *common, "settings", "seeds", *numbered])
    for name, group, result in zip(labels(groups), groups, compared, strict=True):
        line = [name, *(group.first[key] for key in common)]
        line += [json.dumps(group.first["settings"], sort_keys=True), " ".join(map(str, group.seeds))]
        for key in keys:
            spread = group.spread(key)
            sd = "" if spread is None or spread.sd is None else spread.sd
            line += ["", "", 0] if spread is None else [spread.mean, sd, spread.n]
        for key in apart:  # None is written as an empty field
            line += astuple(result[key]) if key in result else ["", "", "", 0]
        writer.writerow(line)
    return file.getvalue()


def _by_comparison(groups: Sequence[Group]) -> dict[tuple[Any, ...], list[Group]]:
    parts: dict[tuple[Any, ...], list[Group]] = {}
    for group in in_order(groups):
        parts.setdefault(group.comparison_key, []).append(group)
    return parts
