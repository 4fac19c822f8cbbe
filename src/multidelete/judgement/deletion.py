"""Deletion record of a run: data, time, model, method and test results, in plain English.

``deletion.json`` is a pure function of the results and the ids, so that it can be recomputed and compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from multidelete.judgement import findings
from multidelete.judgement.findings import Finding
from multidelete.judgement.verdict import sentence
from multidelete.runs.groups import BASELINES, Group, label, reference
from multidelete.runs.reader import Run, read_json
from multidelete.runs.seal import DELETION_FILE
from multidelete.utils.errors import InputError
from multidelete.utils.format import percent

SCHEMA = 1

# By task: one item, several items, and the two halves of an item, whose association is to be forgotten.
ITEMS = {
    "retrieval": ("picture with its texts", "pictures with their texts", "a picture and a text"),
    "entailment": ("picture with its statements", "pictures with their statements", "a picture and a statement"),
    "reasoning": ("set of pictures with its statements", "sets of pictures with their statements", "pictures and text"),
    "graph_text": ("relation with its sentences", "relations with their sentences", "two entities and a sentence"),
}

# Explanations of the verdicts for readers who do not know the thresholds.
FORGETTING = {
    "forgot": (
        "Forgotten",
        "In no comparison is the model clearly different from one that was retrained without the deleted data: the "
        f"difference is less than {findings.EQUAL:g} points of 100, with 98 % confidence.",
    ),
    "forgot_beyond_retrain": (
        "Forgotten (further than needed)",
        "The deleted data now score clearly lower than in a model that was retrained without them. This can itself "
        "reveal what was deleted.",
    ),
    "partly_forgot": (
        "Only partly forgotten",
        "The model still treats the deleted data in part as data that it was trained on: at least "
        f"{percent(findings.PARTLY)} of the difference to a model that was retrained without them is gone, not all.",
    ),
    "not_forgotten": (
        "Not forgotten",
        "The model still treats the deleted data as data that it was trained on: in at least one comparison less than "
        f"{percent(findings.PARTLY)} of the difference to a model that was retrained without them is gone.",
    ),
    "ranked_below": (
        "There was little to forget (the deleted data now stand out)",
        "Before the deletion the model already treated these data much like a model retrained without them. "
        "Now they score clearly lower than in that model, which can itself reveal what was deleted.",
    ),
    "left_as_it_was": (
        "The model was left as it was",
        "Before the deletion it treated these data as data that it was never trained on, or no change was found that "
        "leaves it fit for its task. The note of the run says which.",
    ),
    "forgetting_too_few": (
        "Whether it was forgotten cannot be decided from so few data",
        "The comparison with a model that was retrained without the deleted data is too uncertain: chance alone could "
        f"explain a difference of more than {findings.EQUAL:g} points of 100.",
    ),
    "forgetting_not_measured": (
        "Whether it was forgotten was not measured",
        "The run did not compare the deleted data with other data.",
    ),
}

NOTHING_TO_COMPARE = (
    "Whether it was forgotten cannot be evaluated",
    "No model was retrained without the deleted data, so there is nothing to compare with. A comparison needs a run "
    "with Retrain.",
)

LITTLE_TO_FORGET = (
    "Whether it was forgotten cannot be evaluated",
    "Before the deletion the model already treated these data much like a model retrained without them: "
    "there was little to forget, and these tests cannot tell whether it is gone.",
)


RETRAINED = Finding(
    "retrained",
    "good",
    "Retrained without the deleted data",
    "The model was not changed but trained again from its initial weights, without the deleted data. It never read "
    "them in this training, so there is nothing to forget.",
)

UTILITY = {
    "utility_kept": ("the model still does its task", "It does its task about as well as the {other} model."),
    "utility_reduced": ("the model does its task less well", "It does its task less well than the {other} model."),
    "utility_destroyed": (
        "the model is no longer fit for its task",
        "It does its task far worse than the {other} model. Damage to the whole model is not the deletion "
        "that was requested.",
    ),
    "utility_too_few": (
        "whether the model still does its task cannot be decided from so few test data",
        "There are too few test data to distinguish its test score from that of the {other} model.",
    ),
    "utility_as_before": ("the model does its task as before", "The model was left as it was."),
    "utility_unknown": (
        "whether the model still does its task cannot be evaluated",
        "There is no test score to compare with.",
    ),
}

HIDDEN = (
    "No better than on a model that never saw them",
    "Attacks tried to distinguish the deleted data from data not used in training. None succeeds clearly more often "
    "than on the retrained model.",
)

SHOWS = (
    "Yes",
    "An attack that tries to distinguish the deleted data from data not used in training succeeds clearly more often "
    "than on the retrained model.",
)

TOO_FEW = (
    "Cannot be decided from so few data",
    "Attacks tried to distinguish the deleted data from data not used in training. With so few deleted data, neither "
    "success nor failure can be distinguished from chance.",
)

CHANGED = (
    "Cannot be evaluated",
    "The result of the attack has changed for kept data as well, so it says nothing about the deleted data.",
)

MEMBERSHIP = {
    "membership_hidden": HIDDEN,
    "membership_hidden_of_all": HIDDEN,
    "membership_shows": SHOWS,
    "membership_shows_below": SHOWS,
    "membership_too_few": TOO_FEW,
    "membership_as_before": (
        "As before",
        "The model was left as it was, so attacks succeed as often as before.",
    ),
    "membership_unknown": (
        "Cannot be evaluated",
        "Attacks were run, but there is no retrained model to compare with.",
    ),
    "attack_changed": CHANGED,
}


NOT_TESTED = Finding(
    "membership_not_tested",
    "open",
    "Not tested",
    "No attack was run that tries to detect whether data were used for training. The comparison with data that the "
    "model never saw (below) is the simplest of them.",
)


RETRAINED_MEMBERSHIP = Finding(
    "nothing_to_detect",
    "good",
    "There is nothing to detect",
    "The model did not read the deleted data in this training. If an attack succeeds, this is chance, or follows from "
    "the data that were kept.",
)

NUMBERS = {
    "forget_test_auc": "A deleted item scores above one that the model never saw: times in 100",
    "forget_auc": "A deleted item scores above one that was kept: times in 100",
    "test_score": "Score in the task (0 to 100), on data that the model never saw",
    "retain_score": "Score in the task (0 to 100), on the data that were kept",
    "near_miss_score": "Score in the task (0 to 100), on kept data that share a picture or a text with deleted ones",
}

LIMITS = (
    "No test can show that nothing remains. A stronger attack, or one that reads the model's weights, may find "
    "what these did not.",
    "What is to be forgotten is that the halves of a deleted item ({halves}) belong together. What the model knows of "
    "each half alone is meant to stay.",
    "This is about one model and these items. The data themselves, the model before the deletion, copies of either, "
    "and other models that learned from them are not changed by it.",
    "This is one run. Its answers allow for the chance of which data were deleted and tested, but not for that of "
    "training and unlearning again.",
)


def record(run: Run, ids: Sequence[str], earlier: Sequence[str] = ()) -> dict[str, Any] | None:
    """Deletion record of a run; None if its method is a control, which deletes nothing.

    Args:
        run: The run.
        ids: Ids of the deleted examples, in the order of the request.
        earlier: Ids deleted by earlier requests, which are evaluated together with ``ids``.
    """
    provenance = run.provenance
    index = 1 + bool(provenance["recipe"]["retrain"])  # row of the recipe's method, after Original and Retrain
    row = run.rows[index]
    if row["method"] in BASELINES and row["method"] != "retrain":
        return None
    one, many, halves = ITEMS.get(row["task"], ("item", "items", "its two parts"))
    if parts := run.provenance.get("single_texts"):
        one, many = ("single text", "single texts" if not parts["complete"] else f"{many}, or single texts of them")
    groups = [Group.of([each]) for each in run.rows]
    after, before = groups[index], reference(groups, "original")
    retrained = next((group for group in groups if group is not after and _is_retrain(group)), None)
    forgetting = _forgetting(after, before, retrained)
    kept = findings.utility(after, before, retrained)
    phrase, words = UTILITY[kept.code]
    utility = Finding(kept.code, kept.tone, phrase, words.format(other="retrained" if retrained else "original"))
    membership = _membership(after, before, retrained)
    seeds = row["seeds"]
    models = {"before": before, "after": after, "retrained": retrained}
    return {
        "schema": SCHEMA,
        "result": {"tone": _tone(forgetting, utility, membership), "answer": sentence(run.rows, index)},
        "deleted": {
            "count": len(ids),
            "what": one if len(ids) == 1 else many,
            "asked": provenance["recipe"]["forget"],
            "sha256": provenance["forget_hash"],
            "ids": list(ids),
            **({"earlier": list(earlier)} if earlier else {}),
        },
        "began": provenance["began"],
        "ended": provenance["created"],
        "model": {
            "kind": row["model"],
            "source": provenance["original"],
            **({"base": start} if (start := provenance["recipe"].get("start")) else {}),
            "sha256_before": provenance["original_hash"],
            "sha256_after": provenance["model_hash"],
            "folder": "model",
            "row": run.key(index),
        },
        "data": {"name": row["data"], "read": provenance["recipe"]["data"], "sha256": provenance["data_hash"]},
        "method": {
            "name": row["method"],
            "label": label(row, run.rows),
            "scope": row["scope"],
            "seed": row["seed"],
            **({"seeds": seeds} if set(seeds.values()) != {row["seed"]} else {}),
            "settings": row["settings"],
        },
        "made_by": {key: provenance[key] for key in ("version", "commit", "dirty", "device", "python", "packages")},
        "ordered_by": {key: provenance[key] for key in ("account", "command")},
        "findings": {
            "forgetting": asdict(forgetting),
            "utility": asdict(utility),
            "membership": asdict(membership),
            "numbers": {
                name: {key: group.metrics[key].mean for key in NUMBERS if key in group.metrics}
                for name, group in models.items()
                if group is not None
            },
            "limits": [limit.format(halves=halves) for limit in LIMITS],
        },
    }


def read_record(folder: Path) -> dict[str, Any]:
    """Read the deletion record of a run.

    Raises:
        InputError: The record is damaged, or of another version.
    """
    result = read_json(folder / DELETION_FILE)
    if not isinstance(result, dict) or result.get("schema") != SCHEMA:
        raise InputError(f'{folder / DELETION_FILE}: expected the record of a deletion with "schema": {SCHEMA}')
    return result


def _forgetting(after: Group, before: Group | None, retrained: Group | None) -> Finding:
    """Verdict on forgetting in plain English."""
    if _is_retrain(after):
        return RETRAINED
    result = findings.forgetting(after, before, retrained)
    missing = LITTLE_TO_FORGET if result.code == "little_to_forget" else NOTHING_TO_COMPARE
    return Finding(result.code, result.tone, *FORGETTING.get(result.code, missing))


def _membership(after: Group, before: Group | None, retrained: Group | None) -> Finding:
    """Verdict on membership in plain English, with the numbers of the strongest attack."""
    if _is_retrain(after):
        return RETRAINED_MEMBERSHIP
    result = findings.membership(after, before, retrained)
    if result is None:
        return NOT_TESTED
    answer, words = MEMBERSHIP[result.code]
    return Finding(
        result.code,
        result.tone,
        answer,
        f"{words} ({result.details.rstrip('.')})" if "AUC" in result.details else words,
    )


def _is_retrain(group: Group) -> bool:
    """Whether all parameters were retrained without the deleted data."""
    return group.method == "retrain" and group.first["scope"] == "all"


def _tone(forgetting: Finding, utility: Finding, membership: Finding) -> str:
    """Tone of the worst finding."""
    if membership.tone == "bad":
        return "bad"
    return max(forgetting.tone, utility.tone, key=("good", "fair", "open", "bad").index)
