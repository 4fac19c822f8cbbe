"""Reader of the folder of a study: variants and references, with their rows over seeds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from scipy.stats import linregress

from multidelete.metrics.forgetting import GAP_METRICS, gap_to_retrain
from multidelete.runs.bench_folder import check_finished, command_of, read_cells, study_of
from multidelete.runs.groups import SYMBOLS, TERMS, Group, Spread, label
from multidelete.runs.reader import Run
from multidelete.runs.row import Row
from multidelete.utils.errors import InputError
from multidelete.utils.format import NONE

ORIGINAL, RETRAIN = "original", "retrain-all"
SCORE, AUC, TEST_AUC, GAP = "test_score", "forget_auc", "forget_test_auc", "gap_to_retrain"
LABELS = {
    ORIGINAL: "Original",
    RETRAIN: "Retrain",
    "full": "Full",
    "without-md": "− MD",
    "without-ukr": "− UKR",
    "without-mkr": "− MKR",
    "as-it-is": "As it is",
    "at-once": "All at once",
    "lowest": "As low as possible",
    "unseen": "Until they look unseen",
}


@dataclass(frozen=True)
class Line:
    """One variant at one size: a line of the table.

    Args:
        variant: Name in the grid.
        label: Display name.
        group: Rows, one for each seed.
        runs: Runs of these rows; each row is the last one of its run.
    """

    variant: str
    label: str
    group: Group
    runs: tuple[Run, ...] = ()

    @property
    def examples(self) -> int:
        """Number of deleted examples."""
        return int(self.group.first["forget_examples"])

    def mean(self, key: str) -> float | None:
        """Mean of a metric or a cost over seeds."""
        spread = self.spread(key)
        return None if spread is None else spread.mean

    def spread(self, key: str) -> Spread | None:
        """Spread of a metric or a cost over seeds."""
        return self.group.spread(key)

    def text(self, key: str) -> str:
        """Metric as text."""
        return str(self.spread(key) or NONE)


@dataclass(frozen=True)
class StudyResult:
    """Results of the finished cells of a study.

    Args:
        name: Name of the study.
        lines: Variants, in the order of the grid.
        references: Original and Retrain for each size.
        notes: What failed and what has not run.
        commands: Last command of the study, if known.
    """

    name: str
    lines: tuple[Line, ...]
    references: tuple[Line, ...]
    notes: tuple[str, ...]
    commands: tuple[str, ...] = ()

    def line(self, variant: str) -> Line | None:
        """Line of a variant, or None if none of its cells has finished."""
        return next((line for line in self.lines if line.variant == variant and line.group.seeds), None)

    def retrain(self, examples: int | None = None) -> Line | None:
        """Retrain without this number of examples; by default the last one."""
        result = [line for line in self.references if line.variant == RETRAIN and examples in (None, line.examples)]
        return result[-1] if result else None

    @property
    def done(self) -> list[Line]:
        """Variants with at least one finished seed."""
        return [line for line in self.lines if line.group.seeds]


def read_study(folder: Path) -> StudyResult:
    """Read the study in a folder.

    Raises:
        InputError: The folder contains no study, or no cell has finished.
    """
    name = study_of(folder)
    if name is None:
        raise InputError(f"{folder} holds no study")
    cells, notes = read_cells(folder)
    check_finished(cells, notes)
    rows: dict[tuple[str, int], dict[int, Row]] = {}  # by variant and size, by seed
    runs: dict[tuple[str, int], list[Run]] = {}
    for cell in cells:
        row = cell.run.rows[-1]
        examples, seed = int(row["forget_examples"]), int(row["seed"])
        key = (cell.variant, examples)
        rows.setdefault(key, {})[seed] = row
        if cell.finished:
            runs.setdefault(key, []).append(cell.run)
            if not cell.variant.startswith("step"):  # a later step starts from the model of the previous one
                rows.setdefault((ORIGINAL, examples), {})[seed] = cell.run.rows[0]
    lines = []
    for (variant, examples), of_seed in rows.items():
        retrain = rows.get((RETRAIN, examples), {})
        result = [_with_gap(row, retrain.get(seed)) for seed, row in sorted(of_seed.items())]
        group = Group.of(result)
        lines.append(Line(variant, _label(name, variant, group), group, tuple(runs.get((variant, examples), ()))))
    return StudyResult(
        name,
        tuple(line for line in lines if line.variant not in (ORIGINAL, RETRAIN)),
        tuple(line for variant in (ORIGINAL, RETRAIN) for line in lines if line.variant == variant),
        tuple(notes),
        tuple(command_of(folder)),
    )


def _with_gap(row: Row, retrain: Row | None) -> Row:
    """Row with its gap to Retrain, added if its own run has no Retrain."""
    if (
        retrain is None
        or GAP in row["metrics"]
        or not set(GAP_METRICS) <= row["metrics"].keys() & retrain["metrics"].keys()
    ):
        return row
    return {**row, "metrics": {**row["metrics"], GAP: gap_to_retrain(row["metrics"], retrain["metrics"])}}


def _label(study: str, variant: str, group: Group) -> str:
    """Display name of a variant."""
    if variant in LABELS:
        return LABELS[variant]
    name, _, value = variant.partition("-")
    if name in TERMS:
        return f"{SYMBOLS[name]} = {value}"
    if name.startswith("step"):
        return f"Request {name.removeprefix('step')}"
    scopes = {"all": "All parameters", "fusion": "Fusion only"} if study == "scopes" else {}
    return scopes.get(group.first["scope"]) or label(group.first, [group.first])


@dataclass(frozen=True)
class Fit:
    """Linear fit of update times.

    Args:
        slope: Seconds per deleted example.
        intercept: Seconds for zero examples.
        r_squared: Share of the variance explained.
        n: Number of cells.
    """

    slope: float
    intercept: float
    r_squared: float
    n: int


def fitted(result: StudyResult) -> Fit | None:
    """Least-squares fit of update time to size over all cells; None for fewer than three cells or one size."""
    points = [
        (line.examples, float(row["cost"]["update_seconds"]))
        for line in result.done
        for row in line.group.rows
        if "update_seconds" in row["cost"]
    ]
    if len(points) < 3 or len({examples for examples, _ in points}) < 2:
        return None
    line = linregress(*zip(*points, strict=True))
    return Fit(float(line.slope), float(line.intercept), float(line.rvalue) ** 2, len(points))
