"""Result of a run in Python: model, metrics, predictions and loss history, as objects, tables and a figure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from multidelete.data.requests import Request
from multidelete.judgement.verdict import Verdict, sentence, verdicts
from multidelete.metrics.registry import SUMMARY
from multidelete.models.base import Model
from multidelete.runs.groups import BASELINES, Group, label
from multidelete.runs.row import Row, values_of
from multidelete.tasks import Predictions
from multidelete.training.loop import TrainingHistory
from multidelete.utils.errors import InputError, did_you_mean

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure


class Metrics(dict[str, float]):
    """Metrics by name, as keys and attributes: ``metrics["test_score"]`` and ``metrics.test_score``."""

    test_score: float
    retain_score: float
    forget_score: float
    forget_auc: float
    forget_test_auc: float
    gap_to_retrain: float
    mi_ratio: float

    def __getattr__(self, name: str) -> float:
        if name in self:
            return self[name]
        raise AttributeError(f"there is no metric '{name}'{did_you_mean(name, self)}")


@dataclass(frozen=True, repr=False)
class Outcome:
    """Result of :func:`multidelete.unlearn`, and of every run of the command line.

    Args:
        rows: Row of each model, as in ``results.json``: Original first, then Retrain if it was trained.
        index: Position in ``rows`` of the recipe's method.
        request: D_f, D_r, validation and test.
        predictions: Stored scores of the unlearned model, by split.
        history: Loss terms of each step and validation metrics of each checkpoint.
        folder: Run folder; None for runs in memory.
        unlearned: Unlearned model, if it is in memory.
    """

    rows: tuple[Row, ...]
    index: int
    request: Request
    predictions: Predictions
    history: TrainingHistory
    folder: Path | None
    unlearned: Any = None

    @property
    def model(self) -> Any:
        """The unlearned model; ``model.save_pretrained(folder)`` writes it."""
        if self.unlearned is not None:
            return self.unlearned
        assert self.folder is not None
        return Model.from_pretrained(self.folder / "model")

    @property
    def metrics(self) -> Metrics:
        """Metrics of the unlearned model."""
        return Metrics(self.rows[self.index]["metrics"])

    @property
    def before(self) -> Metrics:
        """Metrics of the original model."""
        return Metrics(self.rows[0]["metrics"])

    @property
    def retrained(self) -> Metrics | None:
        """Metrics of Retrain; None if it was not trained."""
        return next((Metrics(row["metrics"]) for row in self.rows if row["method"] == "retrain"), None)

    @property
    def verdict(self) -> Verdict | None:
        """Findings on the unlearned model, each a decision on intervals; None for a control, which unlearns nothing."""
        groups = [Group.of([row]) for row in self.rows]
        unlearned = [i for i, group in enumerate(groups) if group.method not in BASELINES]
        return verdicts(groups)[unlearned.index(self.index)] if self.index in unlearned else None

    @property
    def sentence(self) -> str:
        """The verdict in a sentence, as the terminal, the record and the page say it."""
        return sentence(self.rows, self.index)

    def to_dataframe(self) -> pandas.DataFrame:
        """One line for each model: settings, all metrics, and the cost.

        Raises:
            InputError: pandas is not installed.
        """
        common = ("task", "data", "model", "method", "scope", "forget_examples", "seed")
        return _pandas().DataFrame(
            [
                {**dict(zip(common, values_of(row, common), strict=True)), **row["metrics"], **row["cost"]}
                for row in self.rows
            ]
        )

    def history_to_dataframe(self) -> pandas.DataFrame:
        """One line for each step: loss terms and learning rate, and validation metrics of checkpoints.

        Raises:
            InputError: pandas is not installed.
        """
        steps: dict[int, dict[str, Any]] = {}
        for line in self.history.lines:
            known = steps.setdefault(line["step"], {"step": line["step"]})
            known |= {f"loss_{name}": value for name, value in line.get("losses", {}).items()}
            known |= {f"validation_{name}": value for name, value in line.get("validation", {}).items()}
            known |= {key: line[key] for key in ("learning_rate", "selected") if key in line}
        return _pandas().DataFrame(list(steps.values()))

    def plot(self) -> Figure:
        """Bar chart of the main metrics for each model."""
        from matplotlib.figure import Figure

        names = [name for name in SUMMARY[:-1] if name in self.rows[0]["metrics"]]
        figure = Figure(figsize=(2.4 * len(names), 0.5 * len(self.rows) + 1.2), layout="constrained")
        for axes, name in zip(figure.subplots(1, len(names), sharey=True, squeeze=False)[0], names, strict=True):
            axes.barh(self._labels(), [row["metrics"][name] for row in self.rows])
            axes.set_title(name, fontsize=9)
        axes.invert_yaxis()
        return figure

    def __repr__(self) -> str:
        header, *lines = self._table()
        widths = [max(map(len, column)) for column in zip(header, *lines, strict=True)]
        text = [
            "  ".join(cell.ljust(width) if i == 0 else cell.rjust(width) for i, (cell, width) in enumerate(cells))
            for cells in (list(zip(line, widths, strict=True)) for line in (header, *lines))
        ]
        return "\n".join([self._summary(), *text, self.sentence])

    def _repr_html_(self) -> str:
        header, *lines = self._table()
        rows = [f"<tr>{''.join(f'<th>{escape(cell)}</th>' for cell in header)}</tr>"]
        rows += [f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in line)}</tr>" for line in lines]
        return f"<p>{escape(self._summary())}</p><table>{''.join(rows)}</table><p>{escape(self.sentence)}</p>"

    def _summary(self) -> str:
        row, request = self.rows[self.index], self.request
        rows = (request.forget, request.retain, request.earlier)
        if not request.complete:
            rows = (request.forget_pairs, request.retain_pairs, request.earlier_pairs)
        what = "examples" if request.complete else "pairs"
        return (
            f"{self._labels()[self.index]}: {len(rows[0]):,} of {sum(map(len, rows)):,} training {what} deleted "
            f"({row['task']}, {row['data']}, {row['model']})"
        )

    def _labels(self) -> list[str]:
        return [label(row, self.rows) for row in self.rows]

    def _table(self) -> list[list[str]]:
        names = [name for name in SUMMARY if name in self.rows[self.index]["metrics"]]
        lines = [["", *names]]
        for name, row in zip(self._labels(), self.rows, strict=True):
            lines.append([name, *(_number(row["metrics"], name) for name in names)])
        return lines


def _number(metrics: Mapping[str, float], name: str) -> str:
    return f"{metrics[name]:.1f}" if name in metrics else "-"


def _pandas() -> Any:
    try:
        import pandas
    except ImportError as error:
        raise InputError("a data frame needs pandas: pip install 'multidelete[pandas]'") from error
    return pandas
