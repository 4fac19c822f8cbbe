"""Metrics three ways: a value worked by hand, another implementation, a property."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score

from multidelete.metrics.forgetting import GAP_METRICS, forget_auc, gap_to_retrain, true_label_loss
from multidelete.metrics.ranking import first_true_ranks, recall_at, recalls


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


# -- forget_auc ---------------------------------------------------------------------------------------------------


def test_forget_auc_by_hand() -> None:
    # of six comparisons D_f wins two (3 > 1, 3 > 2) and ties one (2 = 2)
    assert forget_auc(np.array([3.0, 0.0, 2.0]), np.array([1.0, 5.0])) == pytest.approx(100 * 2 / 6)
    assert forget_auc(np.array([3.0, 2.0]), np.array([1.0, 2.0, 4.0])) == pytest.approx(100 * (2 + 1 + 0.5) / 6)
    assert forget_auc(np.array([1.0]), np.array([2.0])) == 0
    assert forget_auc(np.array([2.0]), np.array([1.0])) == 100


def test_forget_auc_is_that_of_scikit_learn(rng: np.random.Generator) -> None:
    for _ in range(20):
        forget, others = rng.integers(-5, 6, 17).astype(float), rng.integers(-4, 9, 41).astype(float)  # many ties
        expected = roc_auc_score(np.r_[np.ones(17), np.zeros(41)], np.r_[forget, others])
        assert forget_auc(forget, others) == pytest.approx(100 * expected)


def test_forget_auc_depends_on_the_order_alone(rng: np.random.Generator) -> None:
    forget, others = rng.normal(size=30), rng.normal(size=50) + 0.5
    value = forget_auc(forget, others)
    assert forget_auc(forget - 40, others - 40) == value
    assert forget_auc(np.exp(forget), np.exp(others)) == value
    assert forget_auc(others, forget) == pytest.approx(100 - value)
    assert forget_auc(np.zeros(3), np.zeros(7)) == 50


def test_forget_auc_is_the_mean_over_random_subsets(rng: np.random.Generator) -> None:
    forget, others = rng.normal(size=40), rng.normal(size=600) + 0.7
    subsets = [forget_auc(forget, rng.choice(others, 40, replace=False)) for _ in range(500)]
    assert forget_auc(forget, others) == pytest.approx(np.mean(subsets), abs=0.5)


# -- gap, matching loss -------------------------------------------------------------------------------------------


def test_gap_to_retrain_by_hand() -> None:
    assert GAP_METRICS == ("test_score", "forget_score", "retain_score", "forget_test_auc")
    retrain = {"test_score": 80.0, "forget_score": 75.0, "retain_score": 90.0, "forget_test_auc": 50.0, "i2t_r1": 1.0}
    metrics = {"test_score": 78.0, "forget_score": 85.0, "retain_score": 90.0, "forget_test_auc": 46.0, "i2t_r1": 99.0}
    assert gap_to_retrain(metrics, retrain) == (2 + 10 + 0 + 4) / 4
    assert gap_to_retrain(retrain, metrics) == 4
    assert gap_to_retrain(retrain, retrain) == 0


def test_true_label_loss_is_the_cross_entropy(rng: np.random.Generator) -> None:
    logits = torch.from_numpy(rng.normal(size=(50, 2)) * 5)
    expected = F.cross_entropy(logits, torch.ones(50, dtype=torch.long)).item()
    assert true_label_loss((logits[:, 1] - logits[:, 0]).numpy()) == pytest.approx(expected)
    assert true_label_loss(np.array([0.0])) == pytest.approx(np.log(2))
    assert true_label_loss(np.array([-2000.0, 2000.0], dtype=np.float32)) == 1000  # no overflow


# -- ranks --------------------------------------------------------------------------------------------------------


def slow_rank(scores: list[float], true: list[bool]) -> int:
    """Put the wrong candidates before the true ones wherever they tie, and look for the first true one."""
    order = sorted(range(len(scores)), key=lambda position: (-scores[position], true[position]))
    return next(rank for rank, position in enumerate(order) if true[position])


def test_ranks_are_those_of_a_slow_twin(rng: np.random.Generator) -> None:
    for _ in range(30):
        scores = rng.integers(0, 6, size=(9, 14)).astype(float)
        true = rng.random((9, 14)) < 0.2
        true[np.arange(9), rng.integers(0, 14, 9)] = True  # one at least, often several
        expected = [slow_rank(list(scores[row]), list(true[row])) for row in range(9)]
        assert first_true_ranks(scores, true).tolist() == expected


def test_best_of_several_captions_counts() -> None:
    scores = np.array([[0.1, 0.9, 0.5, 0.8]])
    assert first_true_ranks(scores, np.array([[True, True, False, False]])).tolist() == [0]
    assert first_true_ranks(scores, np.array([[True, False, True, False]])).tolist() == [2]


@pytest.mark.parametrize("score", [0.0, np.nan, np.inf, -np.inf])
def test_model_that_scores_all_the_same_ranks_nothing(score: float) -> None:
    true = np.eye(20, dtype=bool)
    ranks = first_true_ranks(np.full((20, 20), score), true)
    assert ranks.tolist() == [19] * 20
    assert recalls(ranks, ranks)["mean_recall"] == 0


def test_recalls_by_hand() -> None:
    i2t, t2i = np.array([0, 3, 7, 12]), np.array([0, 0, 4, 5, 9, 10])
    result = recalls(i2t, t2i)
    assert recall_at(i2t, 1) == 25
    expected = {
        "i2t_r1": 25,
        "i2t_r5": 50,
        "i2t_r10": 75,
        "t2i_r1": 100 * 2 / 6,
        "t2i_r5": 100 * 3 / 6,
        "t2i_r10": 100 * 5 / 6,
        "i2t_mean_recall": 50,
        "t2i_mean_recall": 100 * 10 / 18,
        "mean_recall": (50 + 100 * 10 / 18) / 2,
    }
    assert result == pytest.approx(expected)
