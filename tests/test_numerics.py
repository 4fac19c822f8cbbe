"""Numerics against slow twins, dense solves and values worked by hand."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import tiny
from multidelete.data.batches import PairInputs
from multidelete.numerics.dependence import dependence, foci
from multidelete.numerics.gradients import mean_gradient, mean_squared_gradient
from multidelete.numerics.hessian import deletion_step, rank_one, solve
from multidelete.numerics.noise import descent_sigma, newton_sigma

CPU = torch.device("cpu")

# -- dependence ---------------------------------------------------------------------------------------------------


def nearest(rows: list[list[float]], i: int) -> int:
    """The nearest other row; of several the first one after i, going round."""
    others = [(i + step) % len(rows) for step in range(1, len(rows))]
    return min(others, key=lambda k: sum((a - b) ** 2 for a, b in zip(rows[i], rows[k], strict=True)))


def slow_dependence(columns: Tensor, losses: Tensor, candidate: int, given: list[int]) -> float:
    """T as it is written down, sample by sample."""
    values, P = losses.tolist(), len(losses)
    R = [sum(other <= value for other in values) for value in values]
    L = [sum(other >= value for other in values) for value in values]
    with_candidate = columns[:, [*given, candidate]].tolist()
    M = [nearest(with_candidate, i) for i in range(P)]
    if not given:
        bottom = sum(L[i] * (P - L[i]) for i in range(P))
        return sum(P * min(R[i], R[M[i]]) - L[i] ** 2 for i in range(P)) / bottom if bottom else 0.0
    N = [nearest(columns[:, given].tolist(), i) for i in range(P)]
    bottom = sum(R[i] - min(R[i], R[N[i]]) for i in range(P))
    top = sum(min(R[i], R[M[i]]) - min(R[i], R[N[i]]) for i in range(P))
    return top / bottom if bottom else 0.0


def smooth(generator: torch.Generator, count: int) -> tuple[Tensor, Tensor]:
    columns = torch.randn(count, 7, generator=generator, dtype=torch.float64)
    return columns, columns[:, 2] + columns[:, 4] * columns[:, 2] + 0.2 * torch.randn(count, generator=generator)


def tied(generator: torch.Generator, count: int) -> tuple[Tensor, Tensor]:
    """Whole numbers, one constant column, and losses that come twice."""
    columns = torch.randint(0, 4, (count, 7), generator=generator).double()
    columns[:, 3] = 5
    return columns, (columns[:, 1] - columns[:, 5]) * 2 + torch.randint(0, 2, (count,), generator=generator)


@pytest.mark.parametrize("make", [smooth, tied])
@pytest.mark.parametrize("count", [2, 3, 30, 100])
@pytest.mark.parametrize("given", [[], [2], [0, 1, 3, 5]])
def test_dependence_is_that_of_the_slow_twin(
    make: Callable[[torch.Generator, int], tuple[Tensor, Tensor]], count: int, given: list[int]
) -> None:
    columns, losses = make(torch.Generator().manual_seed(count), count)
    result = dependence(columns, losses, columns[:, given] if given else None)
    expected = [slow_dependence(columns, losses, candidate, given) for candidate in range(columns.shape[1])]
    assert result.tolist() == pytest.approx(expected, abs=1e-12)


def test_dependence_by_hand() -> None:
    """Losses 1..4 on an increasing column: M = 2, 3, 4, 3 by the rule for ties, R = 1..4, L = 4..1."""
    column = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    # sum of 4 min(R, R_M) = 4 (1 + 2 + 3 + 3) = 36, of L² = 30, of L (4 - L) = 0 + 3 + 4 + 3 = 10
    assert float(dependence(column, torch.tensor([1.0, 2.0, 3.0, 4.0]))) == pytest.approx(0.6)


def test_dependence_is_near_0_without_and_near_1_with_a_function() -> None:
    columns = torch.from_numpy(np.random.default_rng(1).standard_normal((2000, 2)))
    none, all_of_it = dependence(columns, columns[:, 1].exp())
    assert abs(float(none)) < 0.06
    assert float(all_of_it) > 0.99
    assert float(dependence(columns[:, :1], columns.sum(1), columns[:, 1:])) > 0.9
    assert float(dependence(columns[:, :1], columns[:, 1], columns[:, 1:])) < 0


def test_foci_finds_what_matters_and_stops() -> None:
    randomness = np.random.default_rng(0)
    columns = randomness.standard_normal((1000, 64))
    noise = randomness.standard_normal(1000)
    losses = columns[:, 3] + 0.7 * columns[:, 7] * columns[:, 3] + 0.5 * columns[:, 20] + 0.3 * noise
    result = foci(torch.from_numpy(columns), torch.from_numpy(losses))
    assert result.columns == (3, 20, 7)
    assert result.dependence == pytest.approx((0.364, 0.317, 0.421), abs=1e-3)
    assert foci(torch.from_numpy(columns), torch.from_numpy(losses), limit=2).columns == (3, 20)


def test_foci_is_the_slow_loop() -> None:
    columns, losses = smooth(torch.Generator().manual_seed(5), 60)
    chosen: list[int] = []
    while left := [c for c in range(columns.shape[1]) if c not in chosen]:
        values = [slow_dependence(columns, losses, c, chosen) for c in left]
        if max(values) <= 0:
            break
        chosen.append(left[values.index(max(values))])
    assert 1 < len(chosen) < columns.shape[1]
    assert list(foci(columns, losses).columns) == chosen


def test_foci_never_chooses_a_constant() -> None:
    assert foci(torch.ones(50, 3), torch.arange(50.0)).columns == ()
    column = torch.arange(50.0)
    assert foci(torch.stack([torch.ones(50), column], 1), column).columns == (1,)


def test_one_sample_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 samples, not 1"):
        dependence(torch.zeros(1, 2), torch.zeros(1))


# -- gradients ----------------------------------------------------------------------------------------------------


def setting() -> tuple[nn.Module, Callable[[int], Tensor], dict[str, nn.Parameter], int]:
    """Losses of 7 examples of a small network in chunks of 3, 3 and 1; one parameter is not reached."""
    generator = torch.Generator().manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1))
    network.spare = nn.Linear(2, 2)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    network.requires_grad_(False)
    chunks = torch.randn(7, 4, generator=generator).split(3)

    def losses(chunk: int) -> Tensor:
        hidden = network[1](network[0](chunks[chunk]))
        return network[2](hidden).squeeze(1).square()

    return network, losses, dict(network.named_parameters()), 7


def one_by_one() -> dict[str, Tensor]:
    """Gradients of each example, ``(7, ...)``, obviously."""
    network, losses, parameters, _ = setting()
    network.requires_grad_(True)
    rows: dict[str, list[Tensor]] = {name: [] for name in parameters}
    for chunk in range(3):
        for position in range(len(losses(chunk))):
            network.zero_grad()
            losses(chunk)[position].backward()
            for name, parameter in parameters.items():
                rows[name].append(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone())
    return {name: torch.stack(each) for name, each in rows.items()}


def test_gradients_are_those_of_the_slow_twin() -> None:
    network, losses, parameters, count = setting()
    expected = one_by_one()
    for result, wanted in (
        (mean_gradient(losses, 3, parameters, count), {n: g.mean(0) for n, g in expected.items()}),
        (
            mean_gradient(lambda chunk: losses(chunk).sum(), 3, parameters, count),
            {n: g.mean(0) for n, g in expected.items()},
        ),
        (mean_squared_gradient(losses, 3, parameters, count), {n: g.square().mean(0) for n, g in expected.items()}),
    ):
        assert result.keys() == wanted.keys()
        for name in wanted:
            torch.testing.assert_close(result[name], wanted[name], atol=1e-5, rtol=1e-5)
    assert not expected["spare.weight"].any()
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in network.parameters())


def test_gradients_leave_no_mode_behind() -> None:
    _, losses, parameters, count = setting()
    with torch.no_grad():
        assert mean_gradient(losses, 3, parameters, count)["0.weight"].any()
        assert not torch.is_grad_enabled()
    with pytest.raises(ZeroDivisionError):
        mean_gradient(lambda chunk: losses(chunk) * (1 // 0), 3, parameters, count)
    assert not any(parameter.requires_grad for parameter in parameters.values())


def test_mean_gradient_of_a_model() -> None:
    model = tiny.build(tiny.albef())
    inputs = PairInputs.of(tiny.dataset(), model)
    chunks = np.arange(12).reshape(3, 4)
    parameters = model.parameters_of("fusion")

    def losses(chunk: int) -> Tensor:
        return model.losses(inputs.batch(inputs.true_pairs(chunks[chunk]), CPU))

    result = mean_gradient(losses, 3, parameters, 12)
    model.requires_grad_(True)
    torch.stack([losses(chunk).mean() for chunk in range(3)]).mean().backward()
    for name, parameter in parameters.items():
        torch.testing.assert_close(result[name], parameter.grad, atol=1e-6, rtol=1e-4)


# -- Hessians and noise -------------------------------------------------------------------------------------------


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape)), dtype=torch.float64)


def test_solve_is_the_dense_solve() -> None:
    vectors, right, weights = drawn(30, 2), drawn(30), torch.tensor([1.02, -0.03], dtype=torch.float64)
    dense = 0.05 * torch.eye(30, dtype=torch.float64) + vectors @ weights.diag() @ vectors.T
    torch.testing.assert_close(solve(0.05, vectors, weights, right), torch.linalg.solve(dense, right))


def test_deletion_step_is_the_dense_one() -> None:
    full, deleted, gradient = 3 * drawn(20), drawn(20, 1)[:, 0], drawn(20, 2)[:, 1]
    n, b = 50, 4
    H = (n * full.outer(full) - b * deleted.outer(deleted)) / (n - b)
    expected = torch.linalg.solve(H + 0.1 * torch.eye(20, dtype=torch.float64), gradient) * b / (n - b)
    torch.testing.assert_close(deletion_step(gradient, full, deleted, n, b, damping=0.1), expected)


def test_rank_one_hessian_by_hand() -> None:
    vector = rank_one((torch.tensor([3.0, 1.0]), torch.tensor([1.0, 1.0])), torch.tensor([1.0, -3.0]))
    assert vector.outer(vector).tolist() == [[1.0, 0.0], [0.0, 0.0]]  # 2 * 2 / (1 + 3)


def test_noise_of_descent_to_delete() -> None:
    n, wd = 145_000, 0.02
    given = {"count": n, "strong": wd, "smooth": 4 - wd, "lipschitz": 1 + wd, "epsilon": 5.0, "delta": n**-2}
    assert descent_sigma(1, **given) == pytest.approx(0.40, abs=0.005)
    assert descent_sigma(100, **given) == pytest.approx(0.0024, abs=0.00005)
    assert descent_sigma(100, **{**given, "epsilon": 10.0}) < descent_sigma(100, **given)


def test_noise_of_the_newton_step() -> None:
    gap = 0.5 / (1000**2 * 0.1**3)  # = 0.0005
    assert newton_sigma(1000, 0.1, 1.0, 0.5, 0.01) == pytest.approx(gap / 0.5 * math.sqrt(2 * math.log(125)))
