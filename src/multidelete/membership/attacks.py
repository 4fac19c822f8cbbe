"""Membership inference attacks on D_f.

Members are the pairs of D_f, non-members those of the test split, which come from the same distribution and are not
used in training. D_r cannot serve as non-members: the model was trained on it, so an attack on D_f against D_r would
detect deleted pairs *because* they were forgotten. ``forget_auc`` measures that.

An attack scores each pair independently of the other pairs; higher means "member". An AUC of 50 is chance. An AUC far
below 50 also reveals the deleted pairs: they score lower than unseen pairs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logsumexp
from scipy.stats import norm
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import QuantileTransformer
from sklearn.svm import SVC

from multidelete.metrics.classification import head_logits
from multidelete.metrics.forgetting import forget_auc
from multidelete.metrics.intervals import Resamples, bounds, interval, resampled_rates
from multidelete.metrics.signals import contrastive_signals
from multidelete.utils.randomness import derive

Floats = NDArray[np.floating[Any]]
Arrays = Mapping[str, NDArray[Any]]
Splits = Mapping[str, Arrays]

RATES = {"tpr1": 100, "tpr01": 1000}  # allowed false-positive rates, as reciprocals
SHADOW = "shadow"
SEEN = 1000  # members and non-members, each, in the SVC's training set; training time is quadratic
NAMED = ("example", "text", "score")
OWN_SPREAD = 32  # minimum number of out-models for per-pair variances: half of the 64 models of Carlini et al.


def membership(
    predictions: Splits,
    original: Splits,
    references: Mapping[str, Splits],
    unlearned: Mapping[str, Splits],
    *,
    resamples: int,
    seed: int,
) -> dict[str, float]:
    """Results of all attacks on one model, with 95 % intervals over examples.

    Args:
        predictions: Predictions of the model under attack, by split.
        original: Predictions of the model before unlearning.
        references: Predictions of ``shadow`` and of the reference models, which are complementary pairs in the order of
            their names. Each was trained on one half of the training examples, its ``retain``; ``forget`` is the rest.
        unlearned: For U-LiRA, predictions of these reference models, under the same names, after the method under
            attack has unlearned the part of D_f that each was trained on; ``forget`` is all of D_f.
        resamples: Number of bootstrap resamples.
        seed: Seed of all random draws.

    Returns:
        For each attack ``attack_NAME_auc`` and, with enough non-members, the true-positive rates at false-positive
        rates of 1 and 0.1 %, ``attack_NAME_tpr1`` and ``attack_NAME_tpr01``; with a shadow model ``mi_ratio`` and
        ``mi_ratio_retain``; for each value the ends of its interval, ``_low`` and ``_high``. All but the ratios are in
        points. If a signal is not finite, the result is only its AUC, as nan. Without a test split it is empty.
    """
    if "test" not in predictions:  # nothing is known that the model was not trained on
        return {}
    for split in ("forget", "retain", "test"):
        for name, values in signals(predictions[split]).items():
            if not np.isfinite(values).all():
                return {f"attack_{name}_auc": math.nan}
    members, others = (predictions[split]["cluster"] for split in ("forget", "test"))
    draws = Resamples.of(members, resamples, seed, "members"), Resamples.of(others, resamples, seed, "non-members")
    metrics: dict[str, float] = {}
    for name, scores in attacks(predictions, references, unlearned, seed).items():
        metrics |= {f"attack_{name}_{key}": value for key, value in _rates(*scores, *draws).items()}
    if SHADOW in references:
        attacker = presence_attacker(references[SHADOW])
        for key, split in (("mi_ratio", "forget"), ("mi_ratio_retain", "retain")):
            before, after = (presence(attacker, each[split]) for each in (original, predictions))
            drawn = Resamples.of(predictions[split]["cluster"], resamples, seed, key)
            metrics[key] = float(before.mean() / after.mean())
            metrics[f"{key}_low"], metrics[f"{key}_high"] = interval(drawn.means(before) / drawn.means(after))
    return metrics


def attacks(
    predictions: Splits, references: Mapping[str, Splits], unlearned: Mapping[str, Splits], seed: int
) -> dict[str, tuple[Floats, Floats]]:
    """Scores of each attack for the pairs of D_f, ``(F,)``, and of test, ``(O,)``."""
    members, others = (signals(predictions[split]) for split in ("forget", "test"))
    result = {name: (members[name], others[name]) for name in members}
    if SHADOW in references:
        attacker = support_vectors(references[SHADOW], seed)
        result["svc"] = attacker.decision_function(_features(members)), attacker.decision_function(_features(others))
    pairs = {split: predictions[split] for split in ("forget", "test")}
    own = {"forget": members["loss"], "test": others["loss"]}
    halves = [each for name, each in sorted(references.items()) if name != SHADOW]
    if halves:
        out = {split: out_scores(each, split, halves, seed) for split, each in pairs.items()}
        together, every = np.concatenate([*own.values()]), np.concatenate([*out.values()])
        for name, scores in (("lira", lira(together, every)), ("rmia", rmia(together, every))):
            result[name] = scores[: len(own["forget"])], scores[len(own["forget"]) :]
    if unlearned:
        asked = [_by_knowledge(unlearned[name], references[name]) for name in sorted(unlearned)]
        never = {split: out_scores(each, split, asked, seed) for split, each in pairs.items()}
        once = out_scores(pairs["forget"], "forget", [{**each, "forget": each["once"]} for each in asked], seed)
        attacker = u_lira(once, never["forget"])
        result["u_lira"] = attacker(own["forget"], never["forget"]), attacker(own["test"], never["test"])
    return result


# -- signals --------------------------------------------------------------------------------------------------------


def signals(arrays: Arrays) -> dict[str, Floats]:
    """Signals of each pair, computed from the model's predictions, ``(P,)`` each; higher means "member".

    The posterior is that of the classes, or in retrieval that of the matching head, whose log-odds are the score. With
    two classes, loss and modified entropy give the same order of pairs, and so do confidence and entropy.

    - ``loss``: s(x) as log-odds, which order pairs as the negative loss does but do not saturate [1]_;
    - ``confidence``: log-odds of the most likely class [2]_;
    - ``entropy``: negative entropy of the posterior [2]_;
    - ``modified_entropy``: negative entropy modified by the true label [3]_;
    - ``cosine``, ``i2t``, ``t2i``: contrastive similarity, and its negative cross-entropy among fixed candidates.

    References:
        .. [1] Yeom et al., "Privacy Risk in Machine Learning", CSF 2018
        .. [2] Salem et al., "ML-Leaks", NDSS 2019
        .. [3] Song & Mittal, "Systematic Evaluation of Privacy Risks of Machine Learning Models", USENIX Security 2021
    """
    score = np.asarray(arrays["score"], dtype=np.float64)
    logits = np.asarray(head_logits(arrays), dtype=np.float64)
    label = arrays["label"] if "label" in arrays else np.ones(len(score), dtype=np.int64)
    with np.errstate(invalid="ignore"):  # the caller reports infinite weights
        rest = [logsumexp(np.delete(logits, c, 1), axis=1) for c in range(logits.shape[1])]
        odds = logits - np.stack(rest, axis=1)  # log-odds of each class, (P, C)
        sure, unsure = -np.logaddexp(0, -odds), -np.logaddexp(0, odds)  # log p_c and log (1 − p_c)
        result = {
            "loss": score,
            "confidence": odds.max(1),
            "entropy": (np.exp(sure) * sure).sum(1),
            "modified_entropy": -modified_entropy(sure, unsure, label),
        }
    return result | contrastive_signals(arrays)


def modified_entropy(sure: Floats, unsure: Floats, label: NDArray[np.integer[Any]]) -> Floats:
    """Modified entropy ``−(1 − p_y) log p_y − Σ_{c≠y} p_c log(1 − p_c)``, ``(P,)``; 0 where p_y is 1.

    Args:
        sure: ``log p_c``, ``(P, C)``.
        unsure: ``log (1 − p_c)``, ``(P, C)``.
        label: True class y of each pair, ``(P,)``.

    >>> half = np.log([[0.5, 0.5]])
    >>> round(float(modified_entropy(half, half, np.array([0]))[0] / np.log(2)), 6)
    1.0
    """
    true = np.arange(sure.shape[1]) == np.asarray(label)[:, None]
    result: Floats = -np.where(true, np.exp(unsure) * sure, np.exp(sure) * unsure).sum(1)
    return result


# -- attackers trained on a shadow model ----------------------------------------------------------------------------


def presence_attacker(shadow: Splits) -> Pipeline:
    """Logistic regression for membership with balanced class weights, trained on the shadow model's predictions."""
    # Newton's method with a small tolerance gives the same fit for any number of threads.
    solver = {"solver": "newton-cholesky", "tol": 1e-8, "class_weight": "balanced"}
    return _learned(LogisticRegression(**solver), *_labelled(shadow))


def presence(attacker: Pipeline, arrays: Arrays) -> Floats:
    """The attacker's probability that the model was trained on each pair, ``(P,)``."""
    result: Floats = attacker.predict_proba(_features(signals(arrays)))[:, 1]
    return result


def support_vectors(shadow: Splits, seed: int) -> Pipeline:
    """Support vector classifier for membership, trained on a seeded sample of the shadow model's pairs."""
    features, member = _labelled(shadow)
    randomness = np.random.default_rng(derive(seed, "svc"))
    taken = np.concatenate([randomness.permutation(np.flatnonzero(member == kind))[:SEEN] for kind in (0, 1)])
    return _learned(SVC(class_weight="balanced"), features[taken], member[taken])


def _learned(attacker: Any, features: Floats, member: NDArray[np.int64]) -> Pipeline:
    """Fit an attacker on the quantiles of signals under the shadow model.

    Quantiles have one scale, no heavy tails, and a bounded range: the attacker cannot extrapolate.
    """
    quantiles = QuantileTransformer(n_quantiles=min(1000, len(features)), subsample=None)
    fitted: Pipeline = make_pipeline(quantiles, attacker).fit(features, member)
    return fitted


def _features(result: Mapping[str, Floats]) -> Floats:
    """Features of the trained attackers, ``(P, S)``: the signals that depend on the true label.

    By the other signals, a pair that an unlearned model confidently gets wrong looks like a member, and a shadow model
    has few such pairs to learn from.
    """
    return np.column_stack([values for name, values in result.items() if name not in ("confidence", "entropy")])


def _labelled(shadow: Splits) -> tuple[Floats, NDArray[np.int64]]:
    """Features of the shadow model's non-members (0) and members (1)."""
    parts = [_features(signals(shadow[split])) for split in ("forget", "retain")]
    return np.concatenate(parts), np.repeat([0, 1], [len(part) for part in parts])


# -- attacks with reference models ----------------------------------------------------------------------------------


def out_scores(pairs: Arrays, split: str, references: list[Splits], seed: int) -> Floats:
    """Log-odds of each pair under the reference models that were not trained on it (out-models), ``(P, k / 2)``.

    A training pair has exactly one out-model in each two complementary models. A test pair has two; one is drawn for
    its example, since a mean over more models would itself distinguish members from non-members.

    Args:
        pairs: ``example`` and ``text``.
        split: Split of the pairs.
        references: Predictions of k models, each followed by its complement.
        seed: Seed of the draw.
    """
    columns = []
    for i, two in enumerate(zip(references[::2], references[1::2], strict=True)):
        if split == "test":
            ids, own = np.unique(pairs["example"], return_inverse=True)
            second = np.random.default_rng(derive(seed, "test halves", i)).integers(2, size=len(ids))[own]
            columns.append(np.where(second, two[1]["test"]["score"], two[0]["test"]["score"]))
        else:
            known: dict[tuple[str, int], float] = {}
            for each in two:
                known |= zip(_names(each["forget"]), each["forget"]["score"].tolist(), strict=True)
            columns.append(np.array([known[pair] for pair in _names(pairs)]))
    return np.stack(columns, axis=1).astype(np.float64)


def lira(score: Floats, out: Floats) -> Floats:
    """Offline LiRA [1]_: z-score of a pair's log-odds under a Gaussian of its out-models, ``(P,)``.

    The z-score orders pairs as the probability of smaller log-odds under an out-model does. With few models, all pairs
    share one variance.

    Args:
        score: Log-odds under the model under attack, ``(P,)``.
        out: Log-odds under the out-models, ``(P, n)``.

    References:
        .. [1] Carlini et al., "Membership Inference Attacks From First Principles", S&P 2022

    >>> lira(np.array([3.0, 3.0]), np.array([[0.0, 2.0], [2.0, 4.0]])).round(3)
    array([1.414, 0.   ])
    """
    variance = out.var(axis=1, ddof=1) if out.shape[1] > 1 else np.ones(len(out))
    if out.shape[1] < OWN_SPREAD:
        variance = variance.mean()
    result: Floats = (score - out.mean(1)) / (np.sqrt(variance) + 1e-30)  # as in the paper's code
    return result


def u_lira(once: Floats, never: Floats) -> Callable[[Floats, Floats], Floats]:
    """U-LiRA [1]_: log-likelihood ratio of "learned and unlearned" to "never learned".

    The method under attack has run on every reference model, so its general effect on pairs is part of both
    hypotheses. The statistic is the difference between a pair's log-odds and their mean over models that never learned
    the pair. Each hypothesis is one Gaussian of it over all pairs of D_f, so pairs that score *below* unseen ones are
    detected too. [1]_ fits one Gaussian to each pair, from hundreds of models; no reference model learns test pairs.

    Args:
        once: Log-odds under models that learned the pair and unlearned it, ``(F, n)``, n at least 2.
        never: Log-odds under models that never learned the pair, ``(F, n)``.

    Returns:
        A function of the log-odds under the model under attack, ``(P,)``, and under models that never learned the
        pair, ``(P, n)``; it returns the ratio, ``(P,)``.

    References:
        .. [1] Hayes et al., "Inexact Unlearning Needs More Careful Evaluations to Avoid a False Sense of Privacy",
           SaTML 2025

    >>> never = np.array([[0.0, 1.0], [1.0, 0.0]])
    >>> ratio = u_lira(never - 2, never)  # unlearned pairs score below unseen ones
    >>> bool(ratio(np.array([-1.5]), np.array([[0.0, 1.0]])) > 0 > ratio(np.array([0.5]), np.array([[0.0, 1.0]])))
    True
    """
    others = (never.sum(1, keepdims=True) - never) / (never.shape[1] - 1)  # leave-one-out mean over models
    worlds = []
    for distances in (once - others, never - others):
        worlds.append(norm(distances.mean(), distances.std() + 1e-30))

    def attack(score: Floats, out: Floats) -> Floats:
        distances = score - out.mean(1)
        result: Floats = worlds[0].logpdf(distances) - worlds[1].logpdf(distances)
        return result

    return attack


def rmia(score: Floats, out: Floats, a: float = 0.3) -> Floats:
    """Offline RMIA [1]_: ratio of the true label's probability under a model to its mean over models, ``(P,)``.

    The ratio is ``p(x | θ) / p(x)`` with ``p(x) = ½((1 + a) p_out(x) + 1 − a)``, an estimate of the mean over models
    trained with and without the pair. The paper's score is the share of population pairs z whose ratio it exceeds by a
    factor γ. That share is monotone in the ratio of x, so z and γ affect only the threshold, not AUC or the
    true-positive rate at a given false-positive rate; without them there are no ties.

    Args:
        score: Log-odds under the model under attack, ``(P,)``.
        out: Log-odds under the out-models, ``(P, n)``.
        a: Models trained on the pair are assumed to give ``a · p_out(x) + 1 − a``; the paper fits a to each dataset.

    References:
        .. [1] Zarifzadeh et al., "Low-Cost High-Power Membership Inference Attacks", ICML 2024
    """
    result: Floats = expit(score) / (0.5 * ((1 + a) * expit(out).mean(1) + 1 - a))
    return result


def _by_knowledge(unlearned: Splits, reference: Splits) -> Splits:
    """Predictions of an unlearned reference model; ``forget`` (never learned) and ``once`` (unlearned) split D_f."""
    never = np.isin(unlearned["forget"]["example"], reference["forget"]["example"])
    parts = {"forget": never, "once": ~never}
    return {
        **unlearned,
        **{part: {name: unlearned["forget"][name][rows] for name in NAMED} for part, rows in parts.items()},
    }


def _names(pairs: Arrays) -> Iterator[tuple[str, int]]:
    return zip(pairs["example"].tolist(), pairs["text"].tolist(), strict=True)


# -- success of an attack -------------------------------------------------------------------------------------------


def hits(members: Floats, others: Floats, one_in: int) -> NDArray[np.bool_]:
    """Members that an attack names at a false-positive rate of at most ``1 / one_in``, ``(F,)``.

    Half of the allowed false positives are the highest of the others and half the lowest, since a pair that was deleted
    too far stands out below. Positives lie strictly beyond a score of the others; without interpolation the
    false-positive rate never exceeds the allowed one.

    Args:
        members: Scores of members, ``(F,)``.
        others: Scores of non-members, ``(O,)``, at least ``one_in``.
        one_in: 100 for a false-positive rate of 1 %.

    >>> hits(np.array([-1.0, 3.0, 3.5, 5.0]), np.arange(10.0), one_in=5).tolist()
    [True, False, False, False]
    """
    low, high = bounds(len(others), one_in)
    ordered = np.sort(others)
    named: NDArray[np.bool_] = (members > ordered[len(others) - 1 - high]) | (members < ordered[low])
    return named


def true_positive_rate(members: Floats, others: Floats, one_in: int) -> float:
    """Share of the members that are :func:`hits`, in points."""
    return float(100 * hits(members, others, one_in).mean())


def _rates(members: Floats, others: Floats, member_draws: Resamples, other_draws: Resamples) -> dict[str, float]:
    """AUC and true-positive rates of one attack, with their intervals."""
    possible = {key: one_in for key, one_in in RATES.items() if len(others) >= one_in}
    metrics = {"auc": forget_auc(members, others)}
    metrics |= {key: true_positive_rate(members, others, one_in) for key, one_in in possible.items()}
    aucs, rates = resampled_rates(members, others, member_draws, other_draws, tuple(possible.values()))
    for key, values in zip(list(metrics), [aucs, *rates], strict=True):
        metrics[f"{key}_low"], metrics[f"{key}_high"] = interval(values)
    return metrics
