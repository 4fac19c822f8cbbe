"""Membership attacks where members are known, and intervals, against closed forms and slow twins."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import expit, softmax
from scipy.stats import bootstrap, norm

from multidelete.membership.attacks import (
    OWN_SPREAD,
    attacks,
    lira,
    membership,
    out_scores,
    presence,
    presence_attacker,
    rmia,
    signals,
    true_positive_rate,
    u_lira,
)
from multidelete.metrics.forgetting import forget_auc
from multidelete.metrics.intervals import Resamples, interval, resampled_rates

Floats = NDArray[np.float64]
BINARY = ("loss", "confidence", "entropy", "modified_entropy")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def pairs(score: Any, prefix: str, texts: int = 1, **more: Any) -> dict[str, NDArray[Any]]:
    """Stored predictions of one split, ``texts`` pairs to an example."""
    count = len(score)
    examples = np.array([f"{prefix}-{row // texts:05d}" for row in range(count)])
    score = np.asarray(score, dtype=np.float32)
    return {
        "example": examples,
        "cluster": np.arange(count) // texts,
        "text": np.arange(count) % texts,
        "score": score,
        **more,
    }


# -- AUC and true-positive rate -----------------------------------------------------------------------------------


def of_examples(rng: np.random.Generator, examples: int, texts: int, mean: float) -> Floats:
    """Standard normal scores around a mean, of which those of one example have much in common."""
    shared, own = rng.normal(size=(examples, 1)), rng.normal(size=(examples, texts))
    return (mean + np.sqrt(0.8) * shared + np.sqrt(0.2) * own).ravel()


@pytest.mark.parametrize("distance", [0.0, 1.0])
def test_interval_over_examples_covers_the_closed_form(distance: float, rng: np.random.Generator) -> None:
    expected = 100 * norm.cdf(distance / np.sqrt(2))
    covered = {"examples": 0, "pairs": 0}
    for seed in range(150):
        members, others = of_examples(rng, 40, 4, distance), of_examples(rng, 60, 4, 0.0)
        for kind, texts in (("examples", 4), ("pairs", 1)):
            draws = [Resamples.of(np.arange(len(each)) // texts, 200, seed, kind) for each in (members, others)]
            low, high = interval(resampled_rates(members, others, *draws, ())[0])
            assert low < forget_auc(members, others) < high
            covered[kind] += low <= expected <= high
    assert 0.9 <= covered["examples"] / 150 <= 0.99
    assert covered["pairs"] / 150 < 0.85, "pairs of one example taken for independent ones promise too much"


@pytest.mark.parametrize("one_in", [100, 1000])
def test_true_positive_rate_agrees_with_the_closed_form(one_in: int, rng: np.random.Generator) -> None:
    members, others = rng.normal(size=400_000) + 2, rng.normal(size=400_000)
    threshold = norm.isf(1 / (2 * one_in))  # half of the false positives at each end
    expected = 100 * (norm.sf(threshold - 2) + norm.cdf(-threshold - 2))
    assert true_positive_rate(members, others, one_in) == pytest.approx(expected, abs=1)


def test_true_positive_rate_is_conservative(rng: np.random.Generator) -> None:
    others = np.arange(200.0)
    # one in a hundred allows two false positives, 0 and 199: the thresholds are 1 and 198, and have to be exceeded
    assert true_positive_rate(np.array([1.0, 198.0, 300.0, -5.0]), others, 100) == 50
    assert true_positive_rate(np.array([197.5]), others[:-1], 100) == 100  # of 199 one, and the threshold is 197
    assert true_positive_rate(np.array([197.0]), others[:-1], 100) == 0
    assert true_positive_rate(np.zeros(5), np.zeros(500), 100) == 0  # a model that says nothing is no success
    for _ in range(20):
        tied = rng.integers(0, 6, 300).astype(float)
        result = true_positive_rate(np.arange(6.0), tied, 100)
        least = min(
            (t for t in range(-1, 6) if (tied > t).sum() <= 2), default=6
        )  # and none below: the lowest are tied
        assert result == pytest.approx(100 * (5 - least) / 6)


def test_rates_depend_on_the_order_alone(rng: np.random.Generator) -> None:
    members, others = rng.normal(size=300) + 1, rng.normal(size=500)
    value = true_positive_rate(members, others, 100)
    assert value > 0
    assert true_positive_rate(np.exp(members), np.exp(others), 100) == value
    assert true_positive_rate(members - 7, others - 7, 100) == value


# -- intervals ----------------------------------------------------------------------------------------------------


def test_resampled_rates_are_those_of_a_slow_twin(rng: np.random.Generator) -> None:
    members, others = rng.integers(0, 9, 50).astype(float) + 1, rng.integers(0, 9, 240).astype(float)  # many ties
    draws = Resamples.of(rng.integers(0, 12, 50), 130, 3, "f"), Resamples.of(rng.integers(0, 40, 240), 130, 3, "o")
    aucs, (ones, tens) = resampled_rates(members, others, *draws, (100, 10))
    assert aucs.shape == ones.shape == tens.shape == (130,)
    for b in range(130):
        drawn = [
            np.repeat(scores, each.counts[b][each.own]) for scores, each in zip((members, others), draws, strict=True)
        ]
        assert aucs[b] == pytest.approx(forget_auc(*drawn))
        assert ones[b] == pytest.approx(true_positive_rate(*drawn, 100))
        assert tens[b] == pytest.approx(true_positive_rate(*drawn, 10))


def test_interval_is_that_of_scipy(rng: np.random.Generator) -> None:
    members, others = rng.normal(size=120) + 0.7, rng.normal(size=200)
    draws = Resamples.of(np.arange(120), 4000, 0, "f"), Resamples.of(np.arange(200), 4000, 0, "o")
    ours = interval(resampled_rates(members, others, *draws, ())[0])
    theirs = bootstrap(
        (members, others), forget_auc, n_resamples=4000, method="percentile", vectorized=False
    ).confidence_interval
    assert ours == pytest.approx(tuple(theirs), abs=0.5)


def test_resamples_draw_examples_and_take_their_pairs_along() -> None:
    examples = np.array(["b", "a", "b", "c", "a", "b"])
    draws = Resamples.of(examples, 500, 0, "x")
    assert draws.own.tolist() == [1, 0, 1, 2, 0, 1]
    assert (draws.counts.sum(1) == 3).all()
    assert draws.counts.mean(0) == pytest.approx(np.ones(3), abs=0.15)
    values = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    expected = [np.repeat(values, row[draws.own]).mean() for row in draws.counts]
    assert draws.means(values) == pytest.approx(expected)
    assert (Resamples.of(examples, 500, 0, "x").counts == draws.counts).all()
    assert (Resamples.of(examples, 500, 1, "x").counts != draws.counts).any()
    assert (Resamples.of(examples, 500, 0, "y").counts != draws.counts).any()


# -- signals ------------------------------------------------------------------------------------------------------


def classes(rng: np.random.Generator, count: int = 60, scale: float = 3.0) -> dict[str, NDArray[Any]]:
    logits, label = rng.normal(size=(count, 3)) * scale, rng.integers(0, 3, count)
    probability = softmax(logits, axis=1)
    true = probability[np.arange(count), label]
    return pairs(np.log(true / (1 - true)), "x", logits=logits.astype(np.float32), label=label.astype(np.int32))


def test_signals_of_classes_by_hand() -> None:
    logits = np.log(np.array([[0.7, 0.2, 0.1], [0.7, 0.2, 0.1]]))
    given = pairs(np.log([7 / 3, 1 / 9]), "x", logits=logits, label=np.array([0, 2]))
    result = signals(given)
    assert list(result) == list(BINARY)
    assert result["loss"] == pytest.approx(np.log([7 / 3, 1 / 9]))
    assert result["confidence"] == pytest.approx(np.log([7 / 3, 7 / 3]))
    entropy = -(0.7 * np.log(0.7) + 0.2 * np.log(0.2) + 0.1 * np.log(0.1))
    assert result["entropy"] == pytest.approx([-entropy, -entropy])
    modified = [
        -0.3 * np.log(0.7) - 0.2 * np.log(0.8) - 0.1 * np.log(0.9),
        -0.9 * np.log(0.1) - 0.7 * np.log(0.3) - 0.2 * np.log(0.8),
    ]
    assert result["modified_entropy"] == pytest.approx(-np.array(modified))


def test_no_signal_depends_on_its_batch_mates(rng: np.random.Generator) -> None:
    retrieval = pairs(rng.normal(size=60) * 4, "x", cosine=rng.normal(size=60), i2t_loss=rng.random(60))
    for given in (classes(rng), retrieval):
        full = signals(given)
        order = rng.permutation(60)[:7]
        some = signals({name: values[order] for name, values in given.items()})
        one = signals({name: values[order[:1]] for name, values in given.items()})
        for name, values in full.items():
            assert some[name].tolist() == values[order].tolist(), name
            assert one[name].tolist() == values[order[:1]].tolist(), name


def test_signals_do_not_saturate() -> None:
    result = signals(pairs([30.0, 60.0, 90.0, -60.0], "x"))
    for name in BINARY:
        assert np.isfinite(result[name]).all()
        assert (np.diff(result[name][:3]) > 0).all(), name


def test_of_two_classes_four_signals_are_two(rng: np.random.Generator) -> None:
    given = pairs(rng.normal(size=80) * 5, "x", i2t_loss=rng.random(80), t2i_loss=rng.random(80))
    result = signals(given)
    assert set(result) == {*BINARY, "i2t", "t2i"}
    order = {name: np.argsort(values).tolist() for name, values in result.items()}
    assert order["loss"] == order["modified_entropy"]
    assert order["confidence"] == order["entropy"]
    assert result["i2t"].tolist() == (-given["i2t_loss"]).tolist()
    as_classes = {**given, "logits": np.stack([0 * given["score"], given["score"]], 1), "label": np.ones(80, np.int32)}
    for name, values in signals(as_classes).items():
        assert values == pytest.approx(result[name])


# -- reference models ---------------------------------------------------------------------------------------------


def halves(rng: np.random.Generator, count: int, difficulty: dict[str, Floats], gain: float) -> list[Any]:
    """Complementary reference models: a pair scores by its difficulty, and higher where it was trained on."""
    result = []
    for _ in range(count // 2):
        out = rng.permutation(len(difficulty["train"]))[: len(difficulty["train"]) // 2]
        left = np.isin(np.arange(len(difficulty["train"])), out)
        for forgotten in (left, ~left):
            base = difficulty["train"] + rng.normal(size=len(left)) * 0.5
            score = pairs(np.where(forgotten, base, base + gain), "train")
            test = difficulty["test"] + rng.normal(size=len(difficulty["test"])) * 0.5
            out_of = {name: values[forgotten] for name, values in score.items()}
            result.append({"forget": out_of, "test": pairs(test, "test")})
    return result


def test_reference_models_help_where_pairs_differ_in_difficulty(rng: np.random.Generator) -> None:
    difficulty = {"train": 2 * rng.normal(size=600), "test": 2 * rng.normal(size=400)}
    references = {f"reference-{i:02d}": each for i, each in enumerate(halves(rng, 8, difficulty, 1.0))}
    forget = difficulty["train"][:300] + 1.0 + 0.5 * rng.normal(size=300)
    model = {"forget": pairs(forget, "train"), "test": pairs(difficulty["test"] + 0.5 * rng.normal(size=400), "test")}
    result = {name: forget_auc(*scores) for name, scores in attacks(model, references, {}, seed=0).items()}
    assert set(result) == {*BINARY, "lira", "rmia"}
    assert result["loss"] == pytest.approx(100 * norm.cdf(1 / np.sqrt(2 * 4.25)), abs=4)
    # a pair's out-mean of four has variance 1/16, its own noise 1/4
    assert result["lira"] == pytest.approx(100 * norm.cdf(1 / np.sqrt(2 * (0.25 + 0.0625))), abs=3)
    assert result["rmia"] > result["loss"] + 5
    # A model that never saw the deleted pairs: no attack finds them, though they are out of as many models as others.
    unseen = {**model, "forget": pairs(difficulty["train"][:300] + 0.5 * rng.normal(size=300), "train")}
    for name, scores in attacks(unseen, references, {}, seed=0).items():
        assert forget_auc(*scores) == pytest.approx(50, abs=5), name


def test_each_pair_is_held_against_models_that_never_saw_it() -> None:
    one = {"forget": pairs([1, 2], "a"), "test": pairs([10, 20, 30, 40], "t", texts=2)}
    two = {"forget": pairs([3, 4], "b"), "test": pairs([11, 21, 31, 41], "t", texts=2)}
    asked = {"example": np.array(["b-00001", "a-00000"]), "text": np.array([0, 0])}
    assert out_scores(asked, "forget", [one, two, two, one], 0).tolist() == [[4, 4], [1, 1]]
    seen = set()
    for seed in range(20):
        rows = out_scores(one["test"], "test", [one, two], seed)[:, 0]
        assert (rows.round(-1) == [10, 20, 30, 40]).all()
        drawn = (rows % 10).tolist()
        assert drawn[0] == drawn[1], "the pairs of an example are out of the same model"
        assert drawn[2] == drawn[3]
        seen.add(tuple(drawn))
    assert len(seen) == 4
    with pytest.raises(KeyError):
        out_scores({"example": np.array(["c"]), "text": np.array([0])}, "forget", [one, two], 0)


def test_lira_orders_as_the_probability_of_less_does(rng: np.random.Generator) -> None:
    score = rng.normal(size=50)
    many = rng.normal(size=(50, OWN_SPREAD)) * rng.uniform(0.5, 2, (50, 1))
    own = norm.logcdf(score, many.mean(1), many.std(1, ddof=1))
    assert np.argsort(lira(score, many)).tolist() == np.argsort(own).tolist()
    few = many[:, :3]
    pooled = norm.logcdf(score, few.mean(1), np.sqrt(few.var(1, ddof=1).mean()))
    assert np.argsort(lira(score, few)).tolist() == np.argsort(pooled).tolist()
    assert lira(score, few[:, :1]) == pytest.approx(score - few[:, 0])  # of one model there is no spread


@pytest.mark.parametrize("left", [1.0, -1.5, 0.0])
def test_u_lira_finds_what_a_method_leaves_of_a_pair(rng: np.random.Generator, left: float) -> None:
    """Pairs that were unlearned score by ``left`` more than those never learned; both move by 3, as all pairs do."""
    difficulty = {"train": 2 * rng.normal(size=600), "test": 2 * rng.normal(size=400)}
    forget = pairs(difficulty["train"][:300], "train")

    def unlearned_of(reference: Any) -> Any:
        never = np.isin(forget["example"], reference["forget"]["example"])
        score = forget["score"] - 3 + 0.5 * rng.normal(size=300) + np.where(never, 0, left)
        test = difficulty["test"] - 3 + 0.5 * rng.normal(size=400)
        return {"forget": {**forget, "score": score}, "test": pairs(test, "test")}

    references = {f"reference-{i:02d}": each for i, each in enumerate(halves(rng, 8, difficulty, 1.0))}
    unlearned = {name: unlearned_of(each) for name, each in references.items()}
    score = forget["score"] - 3 + left + 0.5 * rng.normal(size=300)
    model = {
        "forget": {**forget, "score": score},
        "test": pairs(difficulty["test"] - 3 + 0.5 * rng.normal(size=400), "test"),
    }
    result = {name: forget_auc(*scores) for name, scores in attacks(model, references, unlearned, seed=0).items()}
    expected = 100 * norm.cdf(abs(left) / np.sqrt(2 * (0.25 + 0.0625)))
    assert result["u_lira"] == pytest.approx(expected, abs=5 if left == 0 else 3)
    if left < 0:
        assert result["loss"] < 45, "what was unlearned too well looks least like a member to a plain attack"


def test_the_likelihood_ratio_of_u_lira(rng: np.random.Generator) -> None:
    never = rng.normal(size=(4000, 4))
    attacker = u_lira(never + rng.normal(-2, 1, (4000, 4)), never)
    around = 1 + 1 / 3  # variance of a model's score about the mean of three others
    score = np.array([-3.0, 0.0, 2.0])
    expected = norm.logpdf(score, -2, np.sqrt(1 + around)) - norm.logpdf(score, 0, np.sqrt(around))
    assert attacker(score, np.zeros((3, 4))) == pytest.approx(expected, abs=0.15)
    assert attacker(score + 7, np.full((3, 4), 7.0)) == pytest.approx(attacker(score, np.zeros((3, 4))))


def test_the_population_of_rmia_changes_no_order(rng: np.random.Generator) -> None:
    score, out = 2 * rng.normal(size=300), 2 * rng.normal(size=(300, 4))
    ratio = rmia(score, out)
    assert ratio == pytest.approx(expit(score) / (0.5 * (1.3 * expit(out).mean(1) + 0.7)))
    population = rmia(2 * rng.normal(size=2000), 2 * rng.normal(size=(2000, 4)))
    for gamma in (1, 2):
        share = (ratio[:, None] / population >= gamma).mean(1)  # the paper's score
        assert (np.diff(share[np.argsort(ratio)]) >= 0).all()
    share = (ratio[:, None] / population >= 1).mean(1)
    assert forget_auc(share[:100], share[100:]) == pytest.approx(forget_auc(ratio[:100], ratio[100:]), abs=0.5)


# -- the shadow model ---------------------------------------------------------------------------------------------


def memorising(rng: np.random.Generator, **means: float) -> dict[str, Any]:
    """Predictions whose log-odds lie around a mean of each split's own."""
    sizes = {"forget": 240, "retain": 900, "test": 300}
    return {split: pairs(rng.normal(size=sizes[split]) + mean, split, texts=3) for split, mean in means.items()}


def test_mi_ratio_is_the_attackers_probability_before_over_after(rng: np.random.Generator) -> None:
    shadow = memorising(rng, forget=0.0, retain=4.0, test=0.0)
    before = memorising(rng, forget=4.0, retain=4.0, test=0.0)
    forgot = memorising(rng, forget=0.0, retain=4.0, test=0.0)
    destroyed = memorising(rng, forget=0.0, retain=0.0, test=0.0)

    def of(model: dict[str, Any]) -> dict[str, float]:
        return membership(model, before, {"shadow": shadow}, {}, resamples=200, seed=0)

    same = of(before)
    for key in ("mi_ratio", "mi_ratio_retain"):
        assert (same[key], same[f"{key}_low"], same[f"{key}_high"]) == (1, 1, 1)
    attacker = presence_attacker(shadow)
    seen, unseen = (presence(attacker, model["forget"]).mean() for model in (before, forgot))
    assert seen > 0.8
    assert unseen < 0.2
    result = of(forgot)
    assert result["mi_ratio"] == pytest.approx(seen / unseen)
    assert result["mi_ratio_low"] < result["mi_ratio"] < result["mi_ratio_high"]
    assert result["mi_ratio_retain"] == pytest.approx(1, abs=0.05)
    # What destroys the model has the same ratio on D_f, and is found out by that on D_r.
    assert of(destroyed)["mi_ratio"] == pytest.approx(result["mi_ratio"], rel=0.5)
    assert of(destroyed)["mi_ratio_retain"] > 5
    beyond = {split: {**arrays, "score": arrays["score"] - 1e6} for split, arrays in destroyed.items()}
    assert of(destroyed)["mi_ratio"] < of(beyond)["mi_ratio"] < 1e3, "as far as anything that the shadow model showed"
    assert same["attack_svc_auc"] > 95
    assert result["attack_svc_auc"] == pytest.approx(50, abs=6)


def test_values_that_are_no_numbers_are_reported(rng: np.random.Generator) -> None:
    full = memorising(rng, forget=0.0, retain=4.0, test=0.0)
    for split in full:
        for value in (np.nan, np.inf):
            score = full[split]["score"].copy()
            score[3] = value
            broken = {**full, split: {**full[split], "score": score}}
            result = membership(broken, full, {"shadow": full}, {}, resamples=100, seed=0)
            assert list(result) == ["attack_loss_auc"]
            assert np.isnan(result["attack_loss_auc"])


def test_rates_are_there_where_there_are_enough_non_members(rng: np.random.Generator) -> None:
    forget = pairs(rng.normal(size=30) + 1, "f")
    for count, expected in (
        (99, {"auc"}),
        (100, {"auc", "tpr1"}),
        (999, {"auc", "tpr1"}),
        (1000, {"auc", "tpr1", "tpr01"}),
    ):
        model = {"forget": forget, "retain": forget, "test": pairs(rng.normal(size=count), "t")}
        result = membership(model, model, {}, {}, resamples=100, seed=0)
        kinds = {kind + end for kind in expected for end in ("", "_low", "_high")}
        assert set(result) == {f"attack_{name}_{kind}" for name in BINARY for kind in kinds}
        assert result["attack_loss_auc"] == forget_auc(forget["score"], model["test"]["score"])
        assert result == membership(model, model, {}, {}, resamples=100, seed=0)
