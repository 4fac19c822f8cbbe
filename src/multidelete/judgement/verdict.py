"""Verdicts in sentences on what a method forgot, kept and cost, and their thresholds."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from multidelete.metrics.registry import ATTACKS
from multidelete.runs.groups import BASELINES, Group, Spread, labels, reference
from multidelete.utils.format import duration, percent, signed

# All thresholds of the verdicts, in points (0-100) or shares; the page prints them in a footnote.
CLEAR_SIGNAL = 5.0  # points of AUC between Original and Retrain below which there is little to forget
FORGOT = 0.8  # share of the way from Original to Retrain
PARTLY = 0.4
BEYOND = 5.0  # points of AUC below Retrain
KEPT_POINTS, KEPT_SHARE = 3.0, 0.10  # test score lost against Retrain: points, and share of Retrain's
DESTROYED_POINTS, DESTROYED_SHARE = 15.0, 0.40
CHEAP = 0.5  # share of Retrain's time
UNIMODAL_KEPT, UNIMODAL_LOST = 2.0, 5.0  # points of a linear probe lost against Original
REFITTED = "_refitted"  # suffix of metrics of refitted probes
HIDDEN = 5.0  # points by which an attack's AUC may be further from chance than on Retrain
SPARED = 0.1  # allowed difference of the MI ratio of kept pairs from 1
MEMORISED = 45.0  # if Retrain's D_f AUC is below this, the kept pairs are memorised

THRESHOLDS = (
    f"Forgot: at least {percent(FORGOT)} of the way from Original to Retrain was gone, in D_f AUC and in "
    f"D_f vs test AUC (partly: {percent(PARTLY)}); an AUC counts where the two are {CLEAR_SIGNAL:g} points "
    f"apart or more. Beyond Retrain: more than {BEYOND:g} points below it in either. "
    f"Kept its utility: at most {KEPT_POINTS:g} points and {percent(KEPT_SHARE)} of Retrain's test score "
    f"lost; destroyed it: more than {DESTROYED_POINTS:g} points or {percent(DESTROYED_SHARE)}. "
    f"Kept each half: no linear probe lost more than {UNIMODAL_KEPT:g} points against Original (lost it: more than "
    f"{UNIMODAL_LOST:g}; moved it: a refitted one did not). "
    f"Membership hidden: the AUC of no attack is more than {HIDDEN:g} points further from chance than on Retrain, "
    f"and the MI ratio of the kept pairs at most {SPARED:g} from 1. "
    f"Cheap: at most {percent(CHEAP)} of Retrain's time, preparation included."
)


# Code of each finding: its tone and its text.
ANSWERS = {
    "forgot": ("good", "Forgot"),
    "forgot_beyond_retrain": ("good", "Forgot, beyond Retrain"),
    "partly_forgot": ("fair", "Partly forgot"),
    "not_forgotten": ("bad", "Did not forget"),
    "ranked_below": ("fair", "Ranked the deleted pairs below the kept ones"),
    "forgetting_not_measured": ("open", "Forgetting was not measured"),
    "forgetting_unknown": ("open", "Forgetting cannot be evaluated"),
    "utility_kept": ("good", "Kept its utility"),
    "utility_reduced": ("fair", "Lost some utility"),
    "utility_destroyed": ("bad", "Destroyed utility"),
    "utility_unknown": ("open", "Utility cannot be evaluated"),
    "halves_kept": ("good", "Kept what it knew of each half"),
    "halves_moved": ("fair", "Moved what it knew of each half"),
    "halves_reduced": ("fair", "Lost some of what it knew of each half"),
    "halves_lost": ("bad", "Lost what it knew of each half"),
    "membership_hidden": ("good", "Membership hidden"),
    "membership_hidden_of_all": ("fair", "Membership hidden, of kept pairs too"),
    "membership_shows": ("bad", "Membership shows"),
    "membership_shows_below": ("bad", "Membership shows the other way"),
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
        Verdict(
            name,
            group.method,
            group.color,
            forgetting(group, original, retrain),
            utility(group, original, retrain),
            cost(group, retrain),
            unimodal(group, original),
            membership(group, original, retrain),
        )
        for name, group in zip(labels(groups), groups, strict=True)
        if group.method not in BASELINES
    ]


def forgetting(group: Group, original: Group | None, retrain: Group | None) -> Finding:
    """Finding on forgetting: how far AUCs of D_f moved from Original to Retrain."""
    details = "; ".join(
        part
        for part in (
            _compare("D_f AUC", "forget_auc", group, original, retrain),
            _compare("D_f vs test AUC", "forget_test_auc", group, original, retrain),
        )
        if part
    )
    if not details:
        return Finding.of("forgetting_not_measured", "the run has no D_f AUC for this model.")
    if retrain is None or original is None:
        missing = "Retrain" if retrain is None else "Original"
        words = f"{details}. The run has no {missing} to compare with."
        return Finding.of("forgetting_unknown", words)
    shares, below = [], []
    for key in ("forget_auc", "forget_test_auc"):
        own, before, aim = (_mean(g.metrics.get(key)) for g in (group, original, retrain))
        if own is None or before is None or aim is None:
            continue
        below.append(aim - own)
        if before - aim >= CLEAR_SIGNAL:
            shares.append((before - own) / (before - aim))
    beyond = bool(below) and max(below) > BEYOND
    if not shares:
        if beyond:
            words = f"{details}. Original and Retrain hardly differ here: there was little to forget."
            return Finding.of("ranked_below", words)
        words = f"{details}. Original and Retrain hardly differ here: there was little to forget."
        return Finding.of("forgetting_unknown", words)
    if min(shares) < PARTLY:
        return Finding.of("not_forgotten", f"{details}.")
    if min(shares) < FORGOT:
        return Finding.of("partly_forgot", f"{details}.")
    if beyond:
        words = f"{details}. Scores this far below Retrain's can themselves reveal which pairs were deleted."
        return Finding.of("forgot_beyond_retrain", words)
    return Finding.of("forgot", f"{details}.")


def utility(group: Group, original: Group | None, retrain: Group | None) -> Finding:
    """Finding on utility: test score lost against Retrain, or against Original if there is no Retrain.

    Without a test split it is the validation score.
    """
    key = "test_score" if "test_score" in group.metrics else "valid_score"
    own = group.metrics.get(key)
    aim, name = (retrain, "Retrain") if retrain else (original, "Original")
    expected = aim.metrics.get(key) if aim else None
    if own is None or expected is None:
        return Finding.of("utility_unknown", "the run has no test score to compare with.")
    loss = expected.mean - own.mean
    share = loss / expected.mean if expected.mean > 0 else 0.0
    title = "test score" if key == "test_score" else "validation score"
    details = f"{title} {own}, {name} {expected} ({signed(-loss, plus=True)})."
    if loss > DESTROYED_POINTS or share > DESTROYED_SHARE:
        return Finding.of("utility_destroyed", details)
    if loss > KEPT_POINTS or share > KEPT_SHARE:
        return Finding.of("utility_reduced", details)
    return Finding.of("utility_kept", details)


def unimodal(group: Group, original: Group | None) -> Finding | None:
    """Finding on unimodal knowledge: accuracy lost by linear probes fitted on the original's features.

    If a refitted probe lost nothing, the features have changed but the information is not lost.
    """
    probes = [key for key in group.metrics if key.startswith("probe_") and original and key in original.metrics]
    if original is None or not probes:
        return None
    drops = {key: original.metrics[key].mean - group.metrics[key].mean for key in probes}
    refitted = [drop for key, drop in drops.items() if key.endswith(REFITTED)]
    moved, lost = max(drops.values()), max(refitted or drops.values())
    parts = (
        f"{key.removeprefix('probe_').removesuffix(REFITTED)} probe{' refitted' * key.endswith(REFITTED)} "
        f"{group.metrics[key]}, "
        f"Original {original.metrics[key]} ({signed(-drops[key], plus=True)})"
        for key in probes
    )
    details = "; ".join(parts) + "."
    if lost > UNIMODAL_LOST:
        return Finding.of("halves_lost", details)
    if lost > UNIMODAL_KEPT:
        return Finding.of("halves_reduced", details)
    if moved > UNIMODAL_KEPT:
        return Finding.of("halves_moved", details)
    return Finding.of("halves_kept", details)


def membership(group: Group, original: Group | None, retrain: Group | None) -> Finding | None:
    """Finding on membership: whether some attack succeeds clearly better than on Retrain."""
    aucs = {key: spread.mean for key, spread in group.metrics.items() if re.fullmatch(r"attack_\w+_auc", key)}
    ratios = (("MI ratio", "mi_ratio"), ("MI ratio of kept pairs", "mi_ratio_retain"))
    parts = [f"{title} {group.metrics[key].mean:.2f}" for title, key in ratios if key in group.metrics]
    kept = _mean(group.metrics.get("mi_ratio_retain"))
    spoilt = kept is not None and abs(kept - 1) > SPARED
    if not aucs:
        if kept is None:
            return None
        return Finding.of("attack_changed" if spoilt else "membership_unknown", f"{'; '.join(parts)}.")

    def beyond(key: str) -> float:
        """Distance of the AUC from chance, minus that under Retrain."""
        aim = _mean(retrain.metrics.get(key)) if retrain else None
        return abs(aucs[key] - 50) - (0.0 if aim is None else abs(aim - 50))

    worst = max(aucs, key=beyond)
    name = worst.removeprefix("attack_").removesuffix("_auc")
    compared = _compare(f"AUC of the attack by {ATTACKS.get(name, name)}", worst, group, original, retrain)
    details = f"{'; '.join([compared, *parts])}."
    if retrain is None or worst not in retrain.metrics:
        return Finding.of("membership_unknown", f"{details} The run has no Retrain to compare with.")
    if beyond(worst) > HIDDEN:
        if aucs[worst] > 50:
            return Finding.of("membership_shows", details)
        details = f"{details} Deleted pairs score below unseen ones."
        return Finding.of("membership_shows_below", details)
    if spoilt:
        return Finding.of("membership_hidden_of_all", details)
    return Finding.of("membership_hidden", details)


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


def lead(groups: Sequence[Group]) -> str:
    """Headline of MultiDelete, else of the first method; empty if all groups are baselines."""
    unlearned = [group for group in groups if group.method not in BASELINES]
    result = list(zip(verdicts(groups), unlearned, strict=True))
    main = next((each for each in result if each[1].method == "multidelete"), result[0] if result else None)
    return headline(*main, reference(groups, "retrain")) if main else ""


def headline(verdict: Verdict, group: Group, retrain: Group | None) -> str:
    """Verdict on one method as a sentence."""
    examples = f"{group.first['forget_examples']:,} deleted examples"
    forgot = {
        "forgot": f"forgot the {examples}",
        "forgot_beyond_retrain": f"forgot the {examples} (further than retraining would)",
        "partly_forgot": f"only partly forgot the {examples}",
        "not_forgotten": f"did not forget the {examples}",
        "ranked_below": f"ranks the {examples} below the kept ones",
    }.get(verdict.forgetting.code, f"was asked to forget the {examples}, which cannot be evaluated here,")
    kept = {
        "utility_kept": "kept its utility",
        "utility_reduced": "lost some utility",
        "utility_destroyed": "destroyed utility",
    }.get(verdict.utility.code, "its utility cannot be evaluated here")
    contrast = (verdict.forgetting.tone == "good") != (verdict.utility.tone == "good")
    sentence = f"{verdict.label} {forgot} {'but' if contrast else 'and'} {kept}"
    own, full = group.seconds, retrain.seconds if retrain else None
    return f"{sentence}, in {percent(own / full)} of Retrain's time." if own and full else f"{sentence}."


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
