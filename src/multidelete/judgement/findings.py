"""Findings on one method: what it forgot, kept and cost. Each is a decision on intervals, or says what is too few."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from multidelete.judgement.changes import attacked, change
from multidelete.metrics.contrasts import Change
from multidelete.metrics.registry import ATTACKS, METRICS
from multidelete.runs.groups import Group, Spread
from multidelete.utils.format import duration, percent, signed

# All thresholds of the verdicts, in points (0-100) or shares; the page prints them in a footnote.
EQUAL = 10.0  # points within which an AUC, a D_f score or a true-positive rate must be Retrain's
PARTLY = 0.4  # share of the way from Original to Retrain
KEPT_POINTS, KEPT_SHARE = 3.0, 0.10  # test score lost: points, and share of the score
DESTROYED_POINTS, DESTROYED_SHARE = 15.0, 0.40
CHEAP = 0.5  # share of Retrain's time
UNIMODAL_KEPT, UNIMODAL_LOST = 2.0, 5.0  # points of a linear probe lost against Original
REFITTED = "_refitted"  # suffix of metrics of refitted probes
SPARED = 0.1  # allowed difference of the MI ratio of kept pairs from 1

SIGNALS = ("forget_test_auc", "forget_test_auc_cosine", "forget_score")  # all of them must be Retrain's

THRESHOLDS = (
    "All answers but that on cost are decisions on 98 % intervals over clusters (examples that share a picture or a "
    "pair of nodes), and hold for all questions of one answer together. "
    f"Forgot: D_f vs test AUC, its cosine AUC and the D_f score are all within {EQUAL:g} points of Retrain's. Partly: "
    f"one is still above Retrain's, but at least {percent(PARTLY)} of the way from Original to Retrain is gone. Beyond "
    "Retrain: one is below Retrain's. "
    f"Kept its utility: at most {KEPT_POINTS:g} points and {percent(KEPT_SHARE)} of the test score lost against the "
    f"lower of Original and Retrain; destroyed it: more than {DESTROYED_POINTS:g} points or "
    f"{percent(DESTROYED_SHARE)}. "
    f"Kept each half: every linear probe lost at most {UNIMODAL_KEPT:g} points against Original; lost it: a refitted "
    f"one lost more than {UNIMODAL_LOST:g}; moved it: only one that was not refitted lost anything. "
    f"Membership hidden: the AUC of every attack, and its true-positive rate at 1 % false positives on both sides, are "
    f"within {EQUAL:g} points of Retrain's, and the MI ratio of the kept pairs at most {SPARED:g} from 1. "
    f"Cheap: at most {percent(CHEAP)} of Retrain's time, preparation included."
)


# Code of each finding: its tone and its text.
ANSWERS = {
    "forgot": ("good", "Forgot"),
    "forgot_beyond_retrain": ("fair", "Forgot, beyond Retrain"),
    "partly_forgot": ("fair", "Partly forgot"),
    "not_forgotten": ("bad", "Did not forget"),
    "ranked_below": ("fair", "Ranked the deleted pairs below unseen ones"),
    "little_to_forget": ("open", "There was little to forget"),
    "left_as_it_was": ("open", "Left the model as it was"),
    "forgetting_too_few": ("open", "Too few deleted pairs to tell what was forgotten"),
    "forgetting_not_measured": ("open", "Forgetting was not measured"),
    "forgetting_unknown": ("open", "Forgetting cannot be evaluated"),
    "utility_kept": ("good", "Kept its utility"),
    "utility_reduced": ("fair", "Lost some utility"),
    "utility_destroyed": ("bad", "Destroyed utility"),
    "utility_too_few": ("open", "Too few test pairs to tell whether it kept its utility"),
    "utility_as_before": ("open", "Utility is as before"),
    "utility_unknown": ("open", "Utility cannot be evaluated"),
    "halves_kept": ("good", "Kept what it knew of each half"),
    "halves_moved": ("fair", "Moved what it knew of each half"),
    "halves_reduced": ("fair", "Lost some of what it knew of each half"),
    "halves_lost": ("bad", "Lost what it knew of each half"),
    "halves_too_few": ("open", "Too few test pairs to tell whether it kept what it knew of each half"),
    "halves_as_before": ("open", "What it knew of each half is as before"),
    "membership_hidden": ("good", "Membership hidden"),
    "membership_hidden_of_all": ("fair", "Membership hidden, of kept pairs too"),
    "membership_shows": ("bad", "Membership shows"),
    "membership_shows_below": ("bad", "Membership shows the other way"),
    "membership_too_few": ("open", "Too few deleted pairs to tell whether membership shows"),
    "membership_as_before": ("open", "Membership is as before"),
    "membership_unknown": ("open", "Membership cannot be evaluated"),
    "attack_changed": ("fair", "The attack changed on kept pairs too"),
    "cheap": ("good", "Cheap"),
    "not_much_cheaper": ("fair", "Not much cheaper"),
    "more_expensive": ("bad", "More expensive than retraining"),
    "cost_not_measured": ("open", "Cost was not measured"),
    "cost_unknown": ("open", "Cost cannot be compared"),
}


@dataclass(frozen=True)
class Finding:
    """One answer.

    Args:
        code: Key of ``ANSWERS``.
        tone: good, fair, bad or open.
        answer: The text.
        details: Numbers.
    """

    code: str
    tone: str
    answer: str
    details: str

    @classmethod
    def of(cls, code: str, details: str) -> Finding:
        """The finding with the tone and text of its code."""
        return cls(code, *ANSWERS[code], details)


def forgetting(group: Group, original: Group | None, retrain: Group | None) -> Finding:
    """Finding on forgetting: whether every signal of D_f is Retrain's, as far as its interval can say."""
    parts = [
        _compare(METRICS[key].title, key, group, original, retrain)
        for key in ("forget_auc", *SIGNALS)
        if key in group.metrics
    ]
    details = "; ".join(parts)
    if group.unchanged:
        return Finding.of("left_as_it_was", f"{details}. {group.note}".strip(". ") + ".")
    if not any(key in group.metrics for key in ("forget_auc", *SIGNALS[:2])):
        return Finding.of("forgetting_not_measured", "the run has no D_f AUC for this model.")
    found = {key: each for key in SIGNALS if (each := change(group, "retrain", key)) is not None}
    if retrain is None or original is None or not found:
        missing = "Original" if original is None and retrain is not None else "Retrain"
        moved = change(group, "original", SIGNALS[0])
        if moved is not None:
            details = f"{details}; changed by {_interval(moved)} against Original"
        return Finding.of("forgetting_unknown", f"{details}. The run has no {missing} to compare with.")
    before = {key: change(original, "retrain", key) for key in found}
    family = len(found)
    details = f"{details}. Against Retrain: " + ", ".join(
        f"{METRICS[key].title} {_interval(each, family)}" for key, each in found.items()
    )
    above = [key for key, each in found.items() if _side(each, family) > 0]
    below = [key for key, each in found.items() if _side(each, family) < 0]
    known = [key for key, each in before.items() if each is not None and _side(each, family) > 0]
    if above:
        shares = [_gone(found[key], before[key]) for key in above]
        return Finding.of("partly_forgot" if min(shares) >= PARTLY else "not_forgotten", f"{details}.")
    if below and known:
        words = f"{details}. Scores this far below Retrain's can themselves reveal which pairs were deleted."
        return Finding.of("forgot_beyond_retrain", words)
    if below:
        words = f"{details}. Original and Retrain hardly differ here: there was little to forget."
        return Finding.of("ranked_below", words)
    wide = {key: each for key, each in found.items() if abs(each.value) + each.half(family) > EQUAL}
    if wide:
        return Finding.of("forgetting_too_few", f"{details}. {_too_few(wide, family)}")
    if known:
        return Finding.of("forgot", f"{details}.")
    words = f"{details}. Original and Retrain hardly differ here: there was little to forget."
    return Finding.of("little_to_forget", words)


def utility(group: Group, original: Group | None, retrain: Group | None) -> Finding:
    """Finding on utility: test score lost against the lower of Original and Retrain.

    Without a test split it is the validation score.
    """
    key = "test_score" if "test_score" in group.metrics else "valid_score"
    own = group.metrics.get(key)
    named = {
        name: each for name, each in (("original", original), ("retrain", retrain)) if each and key in each.metrics
    }
    if own is None or not named:
        return Finding.of("utility_unknown", "the run has no test score to compare with.")
    title = "test score" if key == "test_score" else "validation score"
    changes = {name: change(group, name, key) for name in named}
    compared = (f"{name.title()} {named[name].metrics[key]}{_in_brackets(each)}" for name, each in changes.items())
    details = f"{title} {own}; {', '.join(compared)}."
    name = min(named, key=lambda each: named[each].metrics[key].mean)
    expected, moved = named[name].metrics[key].mean, changes[name]
    if group.unchanged:
        return Finding.of("utility_as_before", details)
    if moved is None:
        return Finding.of("utility_unknown", f"{details} Without the differences of single pairs there is no interval.")
    loss, half = -moved.value, moved.half()
    allowed = min(KEPT_POINTS, KEPT_SHARE * expected)
    if loss - half > allowed and loss > min(DESTROYED_POINTS, DESTROYED_SHARE * expected):
        return Finding.of("utility_destroyed", details)
    if loss + half <= allowed:
        return Finding.of("utility_kept", details)
    if loss - half > 0:
        return Finding.of("utility_reduced", details)
    return Finding.of("utility_too_few", details)


def unimodal(group: Group, original: Group | None) -> Finding | None:
    """Finding on unimodal knowledge: accuracy lost by linear probes fitted on the original's features.

    If refitted probes clearly lost nothing, the features have changed but the information is not lost.
    """
    probes = [key for key in group.metrics if key.startswith("probe_") and original and key in original.metrics]
    if original is None or not probes:
        return None
    changes = {key: each for key in probes if (each := change(group, "original", key)) is not None}
    parts = (
        f"{key.removeprefix('probe_').removesuffix(REFITTED)} probe{' refitted' * key.endswith(REFITTED)} "
        f"{group.metrics[key]}, Original {original.metrics[key]}"
        f"{f' ({_interval(changes[key], len(changes))})' if key in changes else ''}"
        for key in probes
    )
    details = "; ".join(parts) + "."
    if group.unchanged:
        return Finding.of("halves_as_before", details)
    if not changes:
        return None
    half = {key: each.half(len(changes)) for key, each in changes.items()}
    if all(-each.value + half[key] <= UNIMODAL_KEPT for key, each in changes.items()):
        return Finding.of("halves_kept", details)
    fallen = {key: -each.value for key, each in changes.items() if -each.value > half[key]}
    refitted = [key for key in fallen if key.endswith(REFITTED) or key + REFITTED not in changes]
    if any(fallen[key] > UNIMODAL_LOST and fallen[key] - half[key] > UNIMODAL_KEPT for key in refitted):
        return Finding.of("halves_lost", details)
    if refitted:
        return Finding.of("halves_reduced", details)
    return Finding.of("halves_moved" if fallen else "halves_too_few", details)


def membership(group: Group, original: Group | None, retrain: Group | None) -> Finding | None:
    """Finding on membership: whether any attack tells deleted from unseen pairs better than on Retrain."""
    aucs = {key: spread.mean for key, spread in group.metrics.items() if re.fullmatch(r"attack_\w+_auc", key)}
    ratios = (("MI ratio", "mi_ratio"), ("MI ratio of kept pairs", "mi_ratio_retain"))
    parts = [f"{title} {group.metrics[key].mean:.2f}" for title, key in ratios if key in group.metrics]
    kept = _mean(group.metrics.get("mi_ratio_retain"))
    spoilt = kept is not None and abs(kept - 1) > SPARED
    if not aucs:
        if kept is None:
            return None
        return Finding.of("attack_changed" if spoilt else "membership_unknown", f"{'; '.join(parts)}.")
    found = attacked(group, "retrain")
    if retrain is None or found is None:
        worst = max(aucs, key=lambda key: abs(aucs[key] - 50))
        details = "; ".join([_compare(_attack_title(worst), worst, group, original, retrain), *parts])
        return Finding.of("membership_unknown", f"{details}. The run has no Retrain to compare with.")
    worst = max(found.changes, key=lambda name: _excess(name, found.changes[name]) / found.changes[name].error)
    far = found.changes[worst]
    compared = _compare(_attack_title(f"attack_{worst}"), f"attack_{worst}", group, original, retrain)
    half = found.factor * far.error
    against = f"against Retrain {signed(far.value, plus=True)} ± {half:.1f}"
    details = f"{'; '.join([f'{compared}, {against}', *parts])}."
    if group.unchanged:
        return Finding.of("membership_as_before", f"{details} The model was left as it was.")
    if all(_excess(name, each) + found.factor * each.error <= EQUAL for name, each in found.changes.items()):
        return Finding.of("membership_hidden_of_all" if spoilt else "membership_hidden", details)
    if _excess(worst, far) > half:
        if far.value > 0:
            return Finding.of("membership_shows", details)
        return Finding.of("membership_shows_below", f"{details} Deleted pairs score below unseen ones.")
    wide = {
        name: each for name, each in found.changes.items() if _excess(name, each) + found.factor * each.error > EQUAL
    }
    return Finding.of("membership_too_few", f"{details} {_too_few(wide, len(found.changes))}")


def cost(group: Group, retrain: Group | None) -> Finding:
    """Finding on cost: time as a share of Retrain's."""
    seconds, full = group.seconds, retrain.seconds if retrain else None
    if seconds is None:
        return Finding.of("cost_not_measured", "the run has no update time for this model.")
    words = duration(seconds)
    if group.prepared is not None:
        words += f", {duration(group.prepared)} of it preparation"
    if not full:
        why = "the run has no Retrain to compare with" if retrain is None else "Retrain was trained elsewhere"
        return Finding.of("cost_unknown", f"{words}; {why}.")
    share = seconds / full
    details = f"{words}; {percent(share)} of Retrain's {duration(full)}."
    if share > 1:
        return Finding.of("more_expensive", details)
    if share > CHEAP:
        return Finding.of("not_much_cheaper", details)
    return Finding.of("cheap", details)


def _excess(name: str, change: Change) -> float:
    """Points by which an attack succeeds other than on Retrain; of a true-positive rate only those above count."""
    return abs(change.value) if name.endswith("_auc") else change.value


def _side(change: Change, family: int) -> int:
    """1 if the first model is clearly above the second, -1 if below; 0 if within the margin, or not known."""
    half = change.half(family)
    if abs(change.value) + half <= EQUAL or abs(change.value) <= half:
        return 0
    return 1 if change.value > 0 else -1


def _gone(now: Change, before: Change | None) -> float:
    """Share of the way from Original to Retrain."""
    return 1 - now.value / before.value if before is not None and before.value > 0 else 0.0


def _interval(change: Change, family: int = 1) -> str:
    """Difference with its interval as text."""
    return f"{signed(change.value, plus=True)} ± {change.half(family):.1f}"


def _in_brackets(change: Change | None) -> str:
    return "" if change is None else f" ({_interval(change)})"


def _too_few(changes: Mapping[str, Change], family: int) -> str:
    """How many clusters would be needed to decide, or that more test pairs would be."""
    margins = {name: max(EQUAL - abs(each.value), EQUAL / 2) for name, each in changes.items()}
    needed = [each.needed(margins[name], family) for name, each in changes.items()]
    clusters = min(each.clusters for each in changes.values())
    if any(each is None for each in needed):
        return (
            f"With {clusters:,} deleted and so few test examples this cannot be decided; more test examples are needed."
        )
    return f"With {clusters:,} deleted this cannot be decided; about {max(filter(None, needed)):,} would be needed."


def _attack_title(key: str) -> str:
    name, _, measure = key.removeprefix("attack_").rpartition("_")
    what = {"auc": "AUC", "tpr1": "true-positive rate at 1 % false positives"}[measure]
    return f"{what} of the attack by {ATTACKS.get(name, name)}"


def _compare(title: str, key: str, group: Group, original: Group | None, retrain: Group | None) -> str:
    own = group.metrics.get(key)
    if own is None:
        return ""
    others = [
        f"{name} {other.metrics[key]}"
        for name, other in (("Original", original), ("Retrain", retrain))
        if other is not None and key in other.metrics
    ]
    return f"{title} {own}" + (f" ({', '.join(others)})" if others else "")


def _mean(spread: Spread | None) -> float | None:
    return None if spread is None else spread.mean
