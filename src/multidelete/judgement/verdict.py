"""Verdicts in sentences on what a method forgot, kept and cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from multidelete.judgement.findings import Finding, cost, forgetting, membership, unimodal, utility
from multidelete.runs.groups import BASELINES, Group, labels, reference
from multidelete.runs.row import Row
from multidelete.utils.format import percent

MEMORISED = 45.0  # if Retrain's D_f AUC is below this, the kept pairs are memorised


@dataclass(frozen=True)
class Verdict:
    """All findings for one method; None where the run did not measure them."""

    label: str
    method: str
    color: str
    forgetting: Finding
    utility: Finding
    cost: Finding
    unimodal: Finding | None = None
    membership: Finding | None = None

    @property
    def findings(self) -> list[Finding]:
        """Findings that are not None, in display order."""
        every = (self.forgetting, self.utility, self.unimodal, self.membership, self.cost)
        return [finding for finding in every if finding is not None]


def verdicts(groups: Sequence[Group]) -> list[Verdict]:
    """Verdict on each group that is not a baseline, in the same order."""
    original, retrain = reference(groups, "original"), reference(groups, "retrain")
    return [
        verdict_on(name, group, original, retrain)
        for name, group in zip(labels(groups), groups, strict=True)
        if group.method not in BASELINES
    ]


def verdict_on(name: str, group: Group, original: Group | None, retrain: Group | None) -> Verdict:
    """Verdict on one group, which is called ``name``."""
    return Verdict(
        name,
        group.method,
        group.color,
        forgetting(group, original, retrain),
        utility(group, original, retrain),
        cost(group, retrain),
        unimodal(group, original),
        membership(group, original, retrain),
    )


def lead(groups: Sequence[Group]) -> str:
    """Headline of MultiDelete, else of the first method; empty if all groups are baselines."""
    unlearned = [group for group in groups if group.method not in BASELINES]
    result = list(zip(verdicts(groups), unlearned, strict=True))
    main = next((each for each in result if each[1].method == "multidelete"), result[0] if result else None)
    return headline(*main, reference(groups, "retrain")) if main else ""


def sentence(rows: Sequence[Row], index: int) -> str:
    """Verdict on one model of a run as a sentence; the terminal, Python, the record and the page say the same.

    Args:
        rows: Rows of the run.
        index: Position of the model.
    """
    groups = [Group.of([row]) for row in rows]
    group, retrain = groups[index], reference(groups, "retrain")
    name = labels(groups)[index]
    if group.method == "retrain" and group.first["scope"] == "all":
        return f"{name} was trained without the {_examples(group)}."
    if group.method in BASELINES and group.method != "retrain":
        return f"{name}: nothing was unlearned."
    return headline(verdict_on(name, group, reference(groups, "original"), retrain), group, retrain)


FORGOT = {
    "forgot": "forgot the {examples}",
    "forgot_beyond_retrain": "forgot the {examples} (further than retraining would)",
    "partly_forgot": "only partly forgot the {examples}",
    "not_forgotten": "did not forget the {examples}",
    "ranked_below": "ranks the {examples} below unseen ones, though there was little to forget",
    "little_to_forget": "had little to forget of the {examples}",
    "forgetting_too_few": "was asked to forget the {examples}, too few to decide whether it did,",
}
KEPT = {
    "utility_kept": "kept its utility",
    "utility_reduced": "lost some utility",
    "utility_destroyed": "destroyed utility",
    "utility_too_few": "too few test pairs say whether it kept its utility",
}
UNKNOWN = "was asked to forget the {examples}, which cannot be evaluated here,"


def headline(verdict: Verdict, group: Group, retrain: Group | None) -> str:
    """Verdict on one method as a sentence, or two."""
    examples = _examples(group)
    if verdict.forgetting.code == "left_as_it_was":
        return " ".join([f"{verdict.label} left the model as it was.", group.note]).strip()
    forgot = FORGOT.get(verdict.forgetting.code, UNKNOWN).format(examples=examples)
    kept = KEPT.get(verdict.utility.code, "its utility cannot be evaluated here")
    contrast = (verdict.forgetting.tone == "good") != (verdict.utility.tone == "good")
    result = f"{verdict.label} {forgot} {'but' if contrast else 'and'} {kept}"
    own, full = group.seconds, retrain.seconds if retrain else None
    result = f"{result}, in {percent(own / full)} of Retrain's time." if own and full else f"{result}."
    exposed = verdict.membership is not None and verdict.membership.tone == "bad"
    return f"{result} An attack can tell which examples were deleted." if exposed else result


def meaning_of_retrain(retrain: Group | None) -> str:
    """Explanation of the target value in this run."""
    aim = retrain.metrics.get("forget_auc") if retrain else None
    if aim is None:
        return (
            "This run has no Retrain, the model retrained without the deleted pairs that gives the value "
            "to aim at. Its numbers can be compared with each other, but not with that value."
        )
    if aim.mean < MEMORISED:
        return (
            f"Here Retrain itself reaches a D_f AUC of {aim}, far below 50: the kept pairs (D_r) are "
            f"memorised, and to Retrain the deleted ones are merely unseen. The value to aim at is Retrain's "
            f"{aim}, not 50."
        )
    return f"The value to aim at is Retrain's, here {aim}: that of a model that never saw the deleted pairs."


def _examples(group: Group) -> str:
    count = group.first["forget_examples"]
    return "deleted example" if count == 1 else f"{count:,} deleted examples"
