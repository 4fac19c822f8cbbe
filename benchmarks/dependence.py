"""FOCI against the plain loop, both in one run: ``python benchmarks/dependence.py``.

20 of 512 neurons over 1,000 perturbations. The plain loop takes one candidate at a time and computes all pairwise
distances in the chosen columns and the candidate, vectorised in torch. Both choose the same neurons. Seconds are of the
processor, all threads together: each runs only once, and other work on the machine shall not count.
"""

from __future__ import annotations

import time

import torch
from torch import Tensor

from multidelete.numerics.dependence import foci

SAMPLES, NEURONS, CHOSEN = 1000, 512, 20


def activations() -> tuple[Tensor, Tensor]:
    """Activations ``(P, p)`` of neurons that see a few directions of the perturbation, and losses ``(P,)``."""
    generator = torch.Generator().manual_seed(0)
    causes = torch.randn(SAMPLES, 2, generator=generator, dtype=torch.float64)
    mixed = torch.tanh(causes @ torch.randn(2, NEURONS, generator=generator, dtype=torch.float64))
    neurons = mixed + 0.3 * torch.randn(SAMPLES, NEURONS, generator=generator, dtype=torch.float64)
    losses = causes.norm(dim=1) + 0.01 * torch.randn(SAMPLES, generator=generator, dtype=torch.float64)
    return neurons, losses


def nearest(columns: Tensor) -> Tensor:
    """The nearest other row of each row, ``(P,)``."""
    distances = torch.cdist(columns, columns, compute_mode="donot_use_mm_for_euclid_dist")
    return distances.fill_diagonal_(torch.inf).argmin(1)


def plain(columns: Tensor, losses: Tensor, limit: int) -> list[int]:
    """FOCI, one candidate at a time; the losses are all different."""
    size, count = columns.shape
    ranks = losses.argsort().argsort() + 1
    above = size + 1 - ranks
    chosen: list[int] = []
    while len(chosen) < limit:
        before = ranks.minimum(ranks[nearest(columns[:, chosen])]).sum() if chosen else None
        values = torch.full((count,), -torch.inf, dtype=torch.float64)
        for candidate in set(range(count)) - set(chosen):
            least = ranks.minimum(ranks[nearest(columns[:, [*chosen, candidate]])]).sum()
            if before is None:
                values[candidate] = (size * least - above.square().sum()) / (above * (size - above)).sum()
            else:
                values[candidate] = (least - before) / (ranks.sum() - before)
        if values.max() <= 0:
            break
        chosen.append(int(values.argmax()))
    return chosen


if __name__ == "__main__":
    columns, losses = activations()
    began = time.process_time()
    selected = list(foci(columns, losses, CHOSEN).columns)
    ours = time.process_time() - began
    began = time.process_time()
    same = plain(columns, losses, CHOSEN)
    slow = time.process_time() - began
    assert selected == same, (selected, same)
    name = f"FOCI, {len(selected)} of {NEURONS} neurons"
    print(f"{name:<40}{ours:8.1f} s    plain {slow:8.1f} s    {slow / ours:5.2f} times faster")
