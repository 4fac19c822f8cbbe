"""Membership attacks: does a model let see which pairs it was trained on?

Members are the pairs of D_f, non-members those of the test split: they come from the same distribution, and nobody was
trained on them. D_r is no set of non-members. The model was trained on it, and where it memorises, an attack that sets
D_f against D_r would find the deleted pairs *because* they were forgotten: that is what ``forget_auc`` is for.

Every attack gives a number to each pair by itself, higher where it takes the pair for a member; none depends on what
else is attacked. An AUC of 50 is chance. One far below 50 betrays the deleted pairs too: they score lower than any
unseen pair.
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
from multidelete.metrics.intervals import Resamples, interval, resampled_rates
from multidelete.utils.randomness import derive

Floats = NDArray[np.floating[Any]]
Arrays = Mapping[str, NDArray[Any]]
Splits = Mapping[str, Arrays]

RATES = {"tpr1": 100, "tpr01": 1000}  # false positives that are allowed: one non-member in so many
SHADOW = "shadow"
SEEN = 1000  # pairs of either kind that the SVC learns from; its time grows with their square
NAMED = ("example", "text", "score")
OWN_SPREAD = 32  # out-models from which each pair gets a spread of its own: half of the 64 models of Carlini et al.


def membership(
    predictions: Splits,
    original: Splits,
    references: Mapping[str, Splits],
    unlearned: Mapping[str, Splits],
    *,
    resamples: int,
    seed: int,
) -> dict[str, float]:
    """Every attack on one model, with 95 % intervals over examples.

    Args:
        predictions: Of the model under test, by split.
        original: Of the model before unlearning.
        references: Of models that were trained on one half of the training examples, their ``retain``, and not on the
            other, their ``forget``: ``shadow``, and complementary pairs of reference models in the order of names.
        unlearned: Where U-LiRA is asked for: of these reference models, by the same names, after the method under test
            has made each forget what it knew of D_f; ``forget`` is D_f whole.
        resamples: Of each interval.
        seed: Of the resamples and samples.

    Returns:
        For each attack ``attack_NAME_auc``, and its true-positive rate where 1 and 0.1 % of the non-members are taken
        for members, ``attack_NAME_tpr1`` and ``attack_NAME_tpr01``, where there are enough of them; ``mi_ratio`` and
        ``mi_ratio_retain`` where there is a shadow model; for each number the ends of its interval, ``_low`` and
        ``_high``. All but the two ratios in points. Where a signal is not finite, that alone is told, as nan.
    """
    for split in ("forget", "retain", "test"):
        for name, values in signals(predictions[split]).items():
            if not np.isfinite(values).all():
                return {f"attack_{name}_auc": math.nan}
    members, others = (predictions[split]["example"] for split in ("forget", "test"))
    draws = Resamples.of(members, resamples, seed, "members"), Resamples.of(others, resamples, seed, "non-members")
    metrics: dict[str, float] = {}
    for name, scores in attacks(predictions, references, unlearned, seed).items():
        metrics |= {f"attack_{name}_{key}": value for key, value in _rates(*scores, *draws).items()}
    if SHADOW in references:
        attacker = presence_attacker(references[SHADOW])
        for key, split in (("mi_ratio", "forget"), ("mi_ratio_retain", "retain")):
            before, after = (presence(attacker, each[split]) for each in (original, predictions))
            drawn = Resamples.of(predictions[split]["example"], resamples, seed, key)
            metrics[key] = float(before.mean() / after.mean())
            metrics[f"{key}_low"], metrics[f"{key}_high"] = interval(drawn.means(before) / drawn.means(after))
    return metrics


def attacks(
    predictions: Splits, references: Mapping[str, Splits], unlearned: Mapping[str, Splits], seed: int
) -> dict[str, tuple[Floats, Floats]]:
    """What each attack gives to the pairs of D_f and to those of test, ``(F,)`` and ``(O,)``."""
    members, others = (signals(predictions[split]) for split in ("forget", "test"))
    result = {name: (members[name], others[name]) for name in members}
    if SHADOW in references:
        judge = support_vectors(references[SHADOW], seed)
        result["svc"] = judge.decision_function(_features(members)), judge.decision_function(_features(others))
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
        judge = u_lira(once, never["forget"])
        result["u_lira"] = judge(own["forget"], never["forget"]), judge(own["test"], never["test"])
    return result


# -- what an attack reads of one pair -------------------------------------------------------------------------------


def signals(arrays: Arrays) -> dict[str, Floats]:
    """What is known of each pair from what the model says of it, ``(P,)`` each, higher for a member.

    The posterior is that of the classes, or in retrieval the matching head's, of which a pair's score is the log-odds.
    Of two classes, loss and modified entropy order pairs alike, and so do confidence and entropy.

    - ``loss``: by s(x) as log-odds, which order pairs as the loss does but do not saturate [1]_;
    - ``confidence``: of the likeliest class, as log-odds [2]_;
    - ``entropy``: of the posterior, negated [2]_;
    - ``modified_entropy``: negated; the entropy with the true label taken into account [3]_;
    - ``cosine``, ``i2t``, ``t2i``: contrastive similarity, and its cross-entropy among fixed candidates, negated.

    References:
        .. [1] Yeom et al., "Privacy Risk in Machine Learning", CSF 2018
        .. [2] Salem et al., "ML-Leaks", NDSS 2019
        .. [3] Song & Mittal, "Systematic Evaluation of Privacy Risks of Machine Learning Models", USENIX Security 2021
    """
    score = np.asarray(arrays["score"], dtype=np.float64)
    logits = np.asarray(head_logits(arrays), dtype=np.float64)
    label = arrays["label"] if "label" in arrays else np.ones(len(score), dtype=np.int64)
    with np.errstate(invalid="ignore"):  # weights that were driven to infinity are reported by who asked
        rest = [logsumexp(np.delete(logits, c, 1), axis=1) for c in range(logits.shape[1])]
        odds = logits - np.stack(rest, axis=1)  # log-odds of each class, (P, C)
        sure, unsure = -np.logaddexp(0, -odds), -np.logaddexp(0, odds)  # log p_c and log (1 − p_c)
        result = {
            "loss": score,
            "confidence": odds.max(1),
            "entropy": (np.exp(sure) * sure).sum(1),
            "modified_entropy": -modified_entropy(sure, unsure, label),
        }
    for name, key, sign in (("cosine", "cosine", 1), ("i2t", "i2t_loss", -1), ("t2i", "t2i_loss", -1)):
        if key in arrays:
            result[name] = sign * np.asarray(arrays[key], dtype=np.float64)
    return result


def modified_entropy(sure: Floats, unsure: Floats, label: NDArray[np.integer[Any]]) -> Floats:
    """``−(1 − p_y) log p_y − Σ_{c≠y} p_c log(1 − p_c)`` of each pair, ``(P,)``: 0 where the true label is certain.

    Args:
        sure: ``log p_c``, ``(P, C)``.
        unsure: ``log (1 − p_c)``, ``(P, C)``.
        label: The true class y of each, ``(P,)``.

    >>> half = np.log([[0.5, 0.5]])
    >>> round(float(modified_entropy(half, half, np.array([0]))[0] / np.log(2)), 6)
    1.0
    """
    true = np.arange(sure.shape[1]) == np.asarray(label)[:, None]
    result: Floats = -np.where(true, np.exp(unsure) * sure, np.exp(sure) * unsure).sum(1)
    return result


# -- attackers trained on a shadow model ----------------------------------------------------------------------------


def presence_attacker(shadow: Splits) -> Pipeline:
    """What gives to a pair the probability that it was trained on, learned from the shadow model's posteriors.

    Logistic regression, in which members and non-members weigh the same.
    """
    # Newton's steps to a small tolerance: the fit is then the same for any number of threads.
    solver = {"solver": "newton-cholesky", "tol": 1e-8, "class_weight": "balanced"}
    return _learned(LogisticRegression(**solver), *_labelled(shadow))


def presence(attacker: Pipeline, arrays: Arrays) -> Floats:
    """The attacker's probability that the model was trained on each pair, ``(P,)``."""
    result: Floats = attacker.predict_proba(_features(signals(arrays)))[:, 1]
    return result


def support_vectors(shadow: Splits, seed: int) -> Pipeline:
    """A support vector machine that learned from a seeded sample of the shadow model's pairs."""
    features, member = _labelled(shadow)
    randomness = np.random.default_rng(derive(seed, "svc"))
    taken = np.concatenate([randomness.permutation(np.flatnonzero(member == kind))[:SEEN] for kind in (0, 1)])
    return _learned(SVC(class_weight="balanced"), features[taken], member[taken])


def _learned(attacker: Any, features: Floats, member: NDArray[np.int64]) -> Pipeline:
    """An attacker that was trained on signals as quantiles of what the shadow model gave.

    These have one scale, short tails, and an end: beyond all that the shadow model showed there was nothing to learn.
    """
    quantiles = QuantileTransformer(n_quantiles=min(1000, len(features)), subsample=None)
    fitted: Pipeline = make_pipeline(quantiles, attacker).fit(features, member)
    return fitted


def _features(result: Mapping[str, Floats]) -> Floats:
    """What attackers learn from, ``(P, S)``: the signals that know the true label.

    To the others a pair that an unlearned model is surely wrong of looks like a member; a shadow model shows few such.
    """
    return np.column_stack([values for name, values in result.items() if name not in ("confidence", "entropy")])


def _labelled(shadow: Splits) -> tuple[Floats, NDArray[np.int64]]:
    """Signals of the pairs that the shadow model was trained on (1) and of those that it was not (0)."""
    parts = [_features(signals(shadow[split])) for split in ("forget", "retain")]
    return np.concatenate(parts), np.repeat([0, 1], [len(part) for part in parts])


# -- attacks by reference models ------------------------------------------------------------------------------------


def out_scores(pairs: Arrays, split: str, references: list[Splits], seed: int) -> Floats:
    """Log-odds that each pair gets from reference models that were not trained on it, ``(P, k / 2)``.

    A pair of the training data is out of exactly one model of each complementary pair. A pair of test is out of both,
    of which one is drawn for its example: a mean over more models would itself tell members from non-members.

    Args:
        pairs: ``example`` and ``text``.
        split: The split that they are of.
        references: k models, each beside its complement.
        seed: Of the draw.
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
    """Offline LiRA [1]_: how far a pair's log-odds lie above those of models that were not trained on it, ``(P,)``.

    In standard deviations of a Gaussian around the mean of its out-models, which order pairs as the probability that
    such a model gives less does. The deviation is that of all pairs together where there are few models.

    Args:
        score: Log-odds under the model that is attacked, ``(P,)``.
        out: Those under the out-models, ``(P, n)``.

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
    """U-LiRA [1]_: log-likelihood ratio of a pair that was learned and unlearned to one that was never learned.

    The method under test has run on every reference model, so that what it does to all pairs alike is in both
    worlds. Pairs stand by how far their log-odds lie from the mean of those models that never learned them, and each
    world is a Gaussian of that distance, over all pairs of D_f: where deleted pairs score *below* unseen ones, they are
    found as well. [1]_ fits one to each pair, from hundreds of models; and no reference model learns test pairs.

    Args:
        once: Log-odds under models that learned the pair and unlearned it, ``(F, n)``, n at least 2.
        never: Those under models that never learned it, ``(F, n)``.

    Returns:
        What gives the ratio ``(P,)`` from log-odds under the model that is attacked, ``(P,)``, and those under models
        that never learned the pair, ``(P, n)``.

    References:
        .. [1] Hayes et al., "Inexact Unlearning Needs More Careful Evaluations to Avoid a False Sense of Privacy",
           SaTML 2025

    >>> never = np.array([[0.0, 1.0], [1.0, 0.0]])
    >>> judge = u_lira(never - 2, never)  # unlearned too well
    >>> bool(judge(np.array([-1.5]), np.array([[0.0, 1.0]])) > 0 > judge(np.array([0.5]), np.array([[0.0, 1.0]])))
    True
    """
    others = (never.sum(1, keepdims=True) - never) / (never.shape[1] - 1)  # of each model, the mean of the rest
    worlds = []
    for distances in (once - others, never - others):
        worlds.append(norm(distances.mean(), distances.std() + 1e-30))

    def judge(score: Floats, out: Floats) -> Floats:
        distances = score - out.mean(1)
        result: Floats = worlds[0].logpdf(distances) - worlds[1].logpdf(distances)
        return result

    return judge


def rmia(score: Floats, out: Floats, a: float = 0.3) -> Floats:
    """Offline RMIA [1]_: how much likelier the true label is under a model than among models as such, ``(P,)``.

    ``p(x | θ) / p(x)`` with ``p(x) = ½((1 + a) p_out(x) + 1 − a)``, which stands for the mean of models with the pair
    and without it. The paper's score is the share of population pairs z over whose own ratio this one rises by a factor
    γ. That share rises with the ratio of x alone, so z and γ say which threshold to take, and change neither AUC nor
    the true-positive rate at a given false-positive rate; without them there are no ties.

    Args:
        score: Log-odds under the model that is attacked, ``(P,)``.
        out: Those under models that were not trained on the pair, ``(P, n)``.
        a: Models with the pair are taken to give ``a · p_out(x) + 1 − a``; the paper fits a to each data set.

    References:
        .. [1] Zarifzadeh et al., "Low-Cost High-Power Membership Inference Attacks", ICML 2024
    """
    result: Floats = expit(score) / (0.5 * ((1 + a) * expit(out).mean(1) + 1 - a))
    return result


def _by_knowledge(unlearned: Splits, reference: Splits) -> Splits:
    """Predictions of an unlearned reference model: of D_f ``forget`` what it never learned, ``once`` what it had."""
    never = np.isin(unlearned["forget"]["example"], reference["forget"]["example"])
    parts = {"forget": never, "once": ~never}
    return {
        **unlearned,
        **{part: {name: unlearned["forget"][name][rows] for name in NAMED} for part, rows in parts.items()},
    }


def _names(pairs: Arrays) -> Iterator[tuple[str, int]]:
    return zip(pairs["example"].tolist(), pairs["text"].tolist(), strict=True)


# -- what an attack reaches -----------------------------------------------------------------------------------------


def true_positive_rate(members: Floats, others: Floats, one_in: int) -> float:
    """Share of the members found where at most one in so many non-members is taken for one, in points.

    The threshold is a non-member's score and has to be exceeded; nothing is interpolated, so that the false-positive
    rate is never above what is allowed.

    Args:
        members: ``(F,)``.
        others: ``(O,)``, at least ``one_in``.
        one_in: 100 for a false-positive rate of 1 %.

    >>> true_positive_rate(np.array([1.0, 3.0, 3.5, 5.0]), np.array([0.0, 1.0, 2.0, 3.0, 4.0]), one_in=5)
    50.0
    """
    allowed = len(others) // one_in
    return float(100 * np.mean(members > np.sort(others)[::-1][allowed]))


def _rates(members: Floats, others: Floats, member_draws: Resamples, other_draws: Resamples) -> dict[str, float]:
    """AUC and true-positive rates of one attack, each with the ends of its interval."""
    possible = {key: one_in for key, one_in in RATES.items() if len(others) >= one_in}
    metrics = {"auc": forget_auc(members, others)}
    metrics |= {key: true_positive_rate(members, others, one_in) for key, one_in in possible.items()}
    aucs, rates = resampled_rates(members, others, member_draws, other_draws, tuple(possible.values()))
    for key, values in zip(list(metrics), [aucs, *rates], strict=True):
        metrics[f"{key}_low"], metrics[f"{key}_high"] = interval(values)
    return metrics
