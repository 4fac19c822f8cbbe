"""Verdicts on simulated worlds: how often they are wrong, and how often they can be given, from one cluster to 400."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

from multidelete.judgement import findings
from multidelete.membership.contrasts import family
from multidelete.metrics.contrasts import Change, auc_change, critical, mean_change
from multidelete.runs.groups import Group
from rows import display, seed_values

SIZES = (1, 5, 20, 100, 400)
WORLDS = 200  # of each size, exactly hidden and exactly exposed: 2,000
TEST = 400
ATTACKS = ("loss", "confidence", "entropy", "modified_entropy", "cosine", "i2t", "t2i", "svc")

Model = dict[str, tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]


def model(rng: np.random.Generator, latent: Any, shift: float, alike: float) -> Model:
    """Scores of D_f and test by correlated attacks; ``shift`` is what the model still knows of D_f."""
    sides = [alike**0.5 * each + (1 - alike) ** 0.5 * rng.normal(size=each.shape) for each in latent]
    sides[0] = sides[0] + shift
    return {
        name: tuple(0.8**0.5 * side + 0.2**0.5 * rng.normal(size=side.shape) for side in sides)  # type: ignore[misc]
        for name in ATTACKS
    }


def groups(models: dict[str, Model]) -> list[Group]:
    """Original, Retrain and a method, with the metrics and contrasts of these scores."""
    result = []
    for method, scores in models.items():
        count = len(scores["loss"][0])
        clusters = np.arange(count), np.arange(TEST)
        auc = {
            name: auc_change(each, (each[0] * 0, each[1] * 0), *clusters).value + 50 for name, each in scores.items()
        }
        contrasts: dict[str, Any] = {}
        if method != "retrain":
            change = auc_change(scores["loss"], models["retrain"]["loss"], *clusters)
            contrasts["retrain"] = {"changes": {"forget_test_auc": asdict(change)}}
        if method == "multidelete":
            contrasts["retrain"]["attacks"] = asdict(family(scores, models["retrain"], *clusters))
        metrics = {"forget_test_auc": auc["loss"], **{f"attack_{name}_auc": each for name, each in auc.items()}}
        common = {"task": "retrieval", "data": "d", "model": "albef", "scope": "all", "settings": {}, "cost": {}}
        row = {**common, **seed_values(0), "method": method, **display(method), "forget_examples": count}
        result.append(Group.of([{**row, "metrics": metrics, "contrasts": contrasts}]))  # type: ignore[list-item]
    return result


@pytest.mark.parametrize("size", SIZES)
def test_false_verdicts_are_rare_and_power_grows(size: int) -> None:
    found: dict[str, Counter[str]] = {"hidden": Counter(), "exposed": Counter()}
    for world, left in (("hidden", 0.0), ("exposed", 1.5)):
        rng = np.random.default_rng([size, int(left * 10)])
        for _ in range(WORLDS):
            latent = rng.normal(size=size), rng.normal(size=TEST)
            made = {"original": model(rng, latent, 1.5, 0.7), "retrain": model(rng, latent, 0.0, 0.7)}
            original, retrain, own = groups({**made, "multidelete": model(rng, latent, left, 0.7)})
            attack = findings.membership(own, original, retrain)
            assert attack is not None
            found[world][attack.code] += 1
            found[world][findings.forgetting(own, original, retrain).code] += 1
    hidden, exposed = ({code: count / WORLDS for code, count in each.items()} for each in found.values())
    shows = sum(hidden.get(code, 0) for code in ("membership_shows", "membership_shows_below"))
    assert shows <= 0.05
    missed = ("not_forgotten", "partly_forgot", "forgot_beyond_retrain", "ranked_below")
    assert sum(hidden.get(code, 0) for code in missed) <= 0.05
    assert exposed.get("membership_hidden", 0) == 0
    assert sum(exposed.get(code, 0) for code in ("forgot", "forgot_beyond_retrain")) <= 0.05
    power = {1: (0.0, 0.0), 5: (0.05, 0.0), 20: (0.95, 0.0), 100: (1.0, 0.0), 400: (1.0, 0.5)}[size]
    assert exposed.get("membership_shows", 0) >= power[0]
    assert hidden.get("membership_hidden", 0) >= power[1]


def test_pairs_of_one_cluster_count_once() -> None:
    """PGR: a pair of nodes has up to dozens of sentences. Intervals over pairs would cover far less than they say."""
    rng = np.random.default_rng(0)
    sizes = np.array([1] * 60 + [2] * 20 + [5] * 10 + [20] * 4)
    covered = Counter({"clusters": 0, "pairs": 0})
    for _ in range(400):
        own = np.repeat(np.arange(len(sizes)), rng.permutation(sizes))
        forget = rng.normal(size=len(sizes))[own] + 0.5 * rng.normal(size=len(own))
        others = rng.normal(size=300) * 1.25**0.5
        for name, clusters in (("clusters", own), ("pairs", np.arange(len(own)))):
            change = auc_change((forget, others), (np.zeros(len(own)), np.zeros(300)), clusters, np.arange(300))
            covered[name] += abs(change.value) <= change.half()
    assert covered["clusters"] / 400 >= 0.92
    assert covered["pairs"] / 400 < 0.8


def test_the_interval_of_a_mean_covers_what_it_says() -> None:
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(1000):
        change = mean_change(rng.normal(size=50) * 20 + 3, np.zeros(50), np.arange(50))
        covered += abs(change.value - 3) <= change.half()
    assert covered / 1000 >= 0.97


def test_a_single_cluster_has_the_widest_interval() -> None:
    one = auc_change((np.ones(5), np.zeros(9)), (np.zeros(5), np.ones(9)), np.zeros(5), np.arange(9))
    assert (one.value, one.clusters) == (100.0, 1)
    assert one.half() > 100


def test_how_many_are_needed() -> None:
    change = Change(0.0, 10.0, 1.0, 25, 24.0)
    needed = change.needed(10.0)
    assert needed is not None
    assert 130 < needed < 145
    then = (10.0**2 - 1) * 25 / needed + 1
    assert 2.326 * then**0.5 == pytest.approx(10, abs=0.1)
    assert Change(0.0, 10.0, 8.0, 25, 24.0).needed(10.0) is None  # more deleted pairs do not help


def test_correlated_tests_need_less_than_bonferroni() -> None:
    assert critical(np.eye(1), 1e6) == pytest.approx(2.33, abs=0.08)
    assert critical(np.eye(8), 1e6) == pytest.approx(3.02, abs=0.1)
    assert critical(0.99 * np.ones((8, 8)) + 0.01 * np.eye(8), 1e6) < 2.6
