"""What a run recorded, computed again from its stored predictions."""

from __future__ import annotations

from typing import Any

from multidelete.judgement.contrasts import contrasts
from multidelete.membership.metrics import metrics_of
from multidelete.metrics.forgetting import gap_to_retrain
from multidelete.recipe import MembershipSettings
from multidelete.runs.reader import Run
from multidelete.store.predictions import read_predictions
from multidelete.tasks import TASKS, Task
from multidelete.utils.registry import choose

GAP = "gap_to_retrain"


def recomputed(run: Run, index: int) -> dict[str, float]:
    """Metrics of a row, recomputed from its stored predictions."""
    recipe = run.provenance["recipe"]
    rows, key = [run.key(each) for each in range(len(run.rows))], run.key(index)
    stored = sorted(path.name for path in (run.folder / "predictions").iterdir())
    common = {name: name for name in stored if not name.startswith(tuple(rows))}
    own = {name.removeprefix(f"{key}-"): name for name in stored if name.startswith(f"{key}-")}
    references, unlearned = (
        {name: read_predictions(run.folder / "predictions" / location) for name, location in each.items()}
        for each in (common, own)
    )
    membership = MembershipSettings.model_validate(recipe["membership"])
    before, after = (read_predictions(run.folder / "predictions" / run.key(each)) for each in (0, index))
    metrics = metrics_of(
        task_of(run), after, before, references, unlearned, membership, run.rows[index]["seeds"]["train"]
    )
    retrain = next((row["metrics"] for row in run.rows if row["method"] == "retrain"), None)
    return metrics if retrain is None else {**metrics, GAP: gap_to_retrain(metrics, retrain)}


def recomputed_contrasts(run: Run) -> list[dict[str, Any]]:
    """Differences of every model to Original and Retrain, in the order of the rows."""
    rows = {run.key(index): row for index, row in enumerate(run.rows)}
    folder = run.folder / "predictions"
    common = [path.name for path in sorted(folder.iterdir()) if not path.name.startswith(tuple(rows))]
    return list(contrasts(rows, task_of(run), lambda name: read_predictions(folder / name), common).values())


def task_of(run: Run) -> Task:
    """The task of a run."""
    settings = dict(run.provenance["recipe"]["task"])
    return choose(TASKS, settings.pop("name"), "task").model_validate(settings)
