"""Question, findings (sentences with numbers) and figure of each study."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from multidelete.report.figures import study as study_figures
from multidelete.report.studies.results import AUC, GAP, SCORE, TEST_AUC, Line, StudyResult, fitted
from multidelete.runs.groups import SYMBOLS, TERMS, Spread
from multidelete.utils.format import NONE, duration, percent, signed

ATTACK = "attack_loss_auc"
LINEAR = 0.9  # minimum R² of linear growth


@dataclass(frozen=True)
class View:
    """Texts and figure of a study.

    Args:
        title: Title.
        question: Question of the study.
        caption: Caption of the figure.
        figure: Function of the result, the prefix of ids and the width in inches that returns an SVG.
        findings: Function that yields the findings as sentences.
        facts: Function that returns numbers for ``study.json``.
    """

    title: str
    question: str
    caption: str
    figure: Callable[[StudyResult, str, float], str]
    findings: Callable[[StudyResult], Iterator[str]]
    facts: Callable[[StudyResult], Mapping[str, Any]] = lambda result: {}

    def sentences(self, result: StudyResult) -> list[str]:
        """Findings from the finished cells."""
        return list(self.findings(result)) or ["Too few cells have finished for any finding."]


def _ablation(result: StudyResult) -> Iterator[str]:
    full = result.line("full")
    if full is None:
        return
    yield f"The full loss reaches {_pair(full)}{_retrain(result, (SCORE, AUC))}."
    for line in result.done:
        if line is not full:
            changes = " and ".join(_signed(_paired(line, full, key)) for key in (SCORE, AUC))
            yield f"Without {line.label.removeprefix('− ')} it reaches {_pair(line)} ({changes})."


def _scopes(result: StudyResult) -> Iterator[str]:
    everything, fusion = (
        next((line for line in result.done if line.variant.endswith(s)), None) for s in ("-all", "-fusion")
    )
    if everything is None or fusion is None:
        return
    yield (
        f"With all parameters it reaches {_pair(everything)}; with the fusion only {_pair(fusion)}"
        f"{_retrain(result, (SCORE, AUC))}."
    )
    all_seconds, seconds = (line.mean("update_seconds") for line in (everything, fusion))
    if all_seconds and seconds:
        yield (
            f"Training only the fusion takes {percent(seconds / all_seconds)} of the update time of all parameters "
            f"({duration(seconds)} of {duration(all_seconds)})."
        )
    for name, line in (("all parameters", everything), ("the fusion only", fusion)):
        steps, values = study_figures.course(line, "forget_auc")
        below = [int(steps[i]) for i in range(len(steps)) if values[:, i].mean() <= 50]
        if below:
            yield (
                f"With {name} deleted pairs first score no higher than unseen ones at step {below[0]:,} "
                f"of {int(steps[-1]):,}."
            )


def _sizes(result: StudyResult) -> Iterator[str]:
    fit, first, last = fitted(result), result.done[0], result.done[-1]
    if fit is not None:
        how = "grows linearly with" if fit.r_squared >= LINEAR else "does not grow linearly with"
        yield (
            f"Update time {how} the number of deleted examples: {1000 * fit.slope:.3g} ms per example, "
            f"R² = {fit.r_squared:.3f} over {fit.n} cells."
        )
    retrain = result.retrain(last.examples)
    own, everything = last.mean("update_seconds"), retrain.mean("update_seconds") if retrain else None
    if own and everything:
        yield (
            f"Deleting {last.examples:,} examples takes {percent(own / everything)} of Retrain's time "
            f"({duration(own)} of {duration(everything)})."
        )
    if first is not last:
        yield (
            f"From {first.examples:,} to {last.examples:,} deleted examples "
            f"the test score goes from {first.text(SCORE)} "
            f"to {last.text(SCORE)} and D_f vs test AUC from {first.text(TEST_AUC)} to {last.text(TEST_AUC)}"
            f"{_retrain(result, (SCORE, TEST_AUC), last.examples)}."
        )


def _size_facts(result: StudyResult) -> Mapping[str, Any]:
    fit = fitted(result)
    if fit is None:
        return {}
    return {"fit": {"seconds_per_example": fit.slope, "seconds": fit.intercept, "r_squared": fit.r_squared, "n": fit.n}}


def _sensitivity(result: StudyResult) -> Iterator[str]:
    swings: dict[str, dict[str, float]] = {SCORE: {}, AUC: {}}
    for weight in TERMS:
        points = study_figures.weighted(result, weight)
        if len(points) < 2:
            continue
        ranges = []
        for key, of_weights in swings.items():
            values = [value for value in (line.mean(key) for _, line in points) if value is not None]
            of_weights[SYMBOLS[weight]] = max(values) - min(values)
            ranges.append(f"between {signed(min(values))} and {signed(max(values))}")
        yield (
            f"With {points[0][0]:g} to {points[-1][0]:g} times the recipe's {SYMBOLS[weight]} the test score lies "
            f"{ranges[0]}, the D_f AUC {ranges[1]}."
        )
    if len(swings[SCORE]) > 1:
        score, auc = (max(each, key=lambda weight: each[weight]) for each in swings.values())
        yield (
            f"The test score depends most on {score} ({swings[SCORE][score]:.1f} points), "
            f"the D_f AUC on {auc} ({swings[AUC][auc]:.1f})."
        )


def _sequential(result: StudyResult) -> Iterator[str]:
    steps = [line for line in result.done if line.variant.startswith("step")]
    at_once = result.line("at-once")
    if not steps or at_once is None:
        return
    last = steps[-1]
    yield (
        f"After {len(steps)} sequential requests ({last.examples:,} examples) the test score is "
        f"{last.text(SCORE)} and D_f vs test AUC {last.text(TEST_AUC)}; "
        f"after all {at_once.examples:,} at once {at_once.text(SCORE)} and "
        f"{at_once.text(TEST_AUC)}{_retrain(result, (SCORE, TEST_AUC))}."
    )
    if last.examples == at_once.examples:
        score, auc = (_signed(_paired(last, at_once, key)) for key in (SCORE, TEST_AUC))
        yield f"Compared with all at once (same seeds), this is {score} in test score and {auc} in D_f vs test AUC."
    times = [line.mean("update_seconds") or 0.0 for line in steps]
    everything = at_once.mean("update_seconds")
    if all(times) and everything:
        yield f"Together the requests take {duration(sum(times))} of updates, all at once {duration(everything)}."


def _stop(result: StudyResult) -> Iterator[str]:
    lowest, unseen = result.line("lowest"), result.line("unseen")
    if lowest is None or unseen is None:
        return
    yield (
        f"D_f vs test AUC is {lowest.text(TEST_AUC)} with the rule 'as low as possible' and "
        f"{unseen.text(TEST_AUC)} with 'until they look unseen'{_retrain(result, (TEST_AUC,))}."
    )
    if lowest.spread(ATTACK) and unseen.spread(ATTACK):
        yield (
            f"The AUC of the loss attack is {lowest.text(ATTACK)} and "
            f"{unseen.text(ATTACK)}{_retrain(result, (ATTACK,))}."
        )
    far, near = lowest.mean(GAP), unseen.mean(GAP)
    if far is not None and near is not None:
        yield (
            f"The gap to Retrain is {lowest.text(GAP)} and {unseen.text(GAP)}: the second is "
            f"{'smaller' if near < far else 'not smaller'}. The test score is {lowest.text(SCORE)} and "
            f"{unseen.text(SCORE)}."
        )
    everything, taken = _last_step(lowest), _last_step(unseen)
    if everything and taken:
        yield f"It took {taken:,.0f} steps instead of {everything:,.0f}."


def _last_step(line: Line) -> float:
    """Mean number of steps."""
    histories = [run.history().get(run.key(len(run.rows) - 1)) for run in line.runs]
    steps = [max(max(curve) for curve in one.losses.values()) for one in histories if one and one.losses]
    return sum(steps) / len(steps) if steps else 0.0


# -- parts of sentences ---------------------------------------------------------------------------------------------


def _retrain(result: StudyResult, keys: tuple[str, ...], examples: int | None = None) -> str:
    """Retrain's values in parentheses, if there are any."""
    retrain = result.retrain(examples)
    if retrain is None or not all(retrain.spread(key) for key in keys):
        return ""
    return f" (Retrain: {' and '.join(retrain.text(key) for key in keys)})"


def _pair(line: Line) -> str:
    return f"a test score of {line.text(SCORE)} and a D_f AUC of {line.text(AUC)}"


def _paired(line: Line, other: Line, key: str) -> Spread | None:
    """Difference of two variants over their common seeds."""
    values = [
        {row["seed"]: float(row["metrics"][key]) for row in each.group.rows if key in row["metrics"]}
        for each in (line, other)
    ]
    common = sorted(values[0].keys() & values[1].keys())
    return Spread.of([values[0][seed] - values[1][seed] for seed in common]) if common else None


def _signed(spread: Spread | None) -> str:
    if spread is None:
        return NONE
    return signed(spread.mean, plus=True) + ("" if spread.sd is None else f" ± {spread.sd:.1f}")


VIEWS: dict[str, View] = {
    "ablation": View(
        "Ablation of the loss terms",
        "What does each term of MultiDelete's loss do? MD decouples deleted pairs, MKR keeps the representations of "
        "kept pairs, UKR those of each modality.",
        "A point for each variant, with one standard deviation over seeds. A higher test score is better, and a lower "
        "D_f AUC, down to that of Retrain.",
        partial(study_figures.dots, (SCORE, AUC)),
        _ablation,
    ),
    "scopes": View(
        "All parameters, or the fusion only",
        "How do test score and forgetting develop when all parameters are trained, and when only the fusion is?",
        "Metrics of the checkpoints on the validation split: mean over seeds, with a band of one standard deviation. "
        "Original and Retrain are shown by their final values; their D_f AUC is against test pairs.",
        study_figures.courses,
        _scopes,
    ),
    "sizes": View(
        "Number of deleted examples",
        "How do quality and time change with the number of deleted examples?",
        "A point for each size, with one standard deviation over seeds; the line is the least-squares fit over all "
        "cells. Update time is the time of parameter updates alone.",
        study_figures.by_size,
        _sizes,
        _size_facts,
    ),
    "sensitivity": View(
        "Sensitivity to the weights",
        "How do test score and forgetting change when the weight of one term is changed and the others stay?",
        "Each line varies one weight, from a quarter of the recipe's value to four times it, with one standard "
        "deviation over seeds.",
        study_figures.by_weight,
        _sensitivity,
    ),
    "sequential": View(
        "Sequential requests, or all at once",
        "How does a model change over sequential requests, each applied to the model that the previous one produced?",
        "After each request all pairs deleted so far are evaluated. The points at the end are the same deletion at "
        "once, and Retrain.",
        study_figures.by_request,
        _sequential,
    ),
    "stop": View(
        "Stopping rules: as low as possible, or until they look unseen",
        "When should unlearning stop: when deleted pairs score as low as possible, or when they cannot be "
        "distinguished from unseen pairs?",
        "A point for each rule, with one standard deviation over seeds. A D_f vs test AUC far below Retrain's reveals "
        "deleted pairs as much as one far above.",
        partial(study_figures.dots, (SCORE, TEST_AUC, GAP)),
        _stop,
    ),
}
