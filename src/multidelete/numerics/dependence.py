r"""Conditional dependence: the coefficient of Azadkia and Chatterjee, and variable selection with it (FOCI).

Let :math:`R_i` be the number of losses :math:`\le \ell_i`, :math:`L_i` the number :math:`\ge \ell_i`
(:math:`P + 1 - R_i` without ties), :math:`N(i)` the nearest neighbour of sample i in the columns :math:`A_S`, and
:math:`M(i)` that in :math:`(A_S, A_j)`. The dependence of the losses on column j given the columns of S is

.. math::
    T_j = \frac{\sum_i P \min(R_i, R_{M(i)}) - L_i^2}{\sum_i L_i (P - L_i)} \;\; (S = \emptyset), \qquad
    T_j = \frac{\sum_i \min(R_i, R_{M(i)}) - \min(R_i, R_{N(i)})}{\sum_i R_i - \min(R_i, R_{N(i)})}

(Azadkia and Chatterjee, "A simple measure of conditional dependence", Annals of Statistics 2021). It is about 0 for
independent losses and 1 if the losses are a function of the columns.

**Ties.** Among equally near neighbours of sample i, we take the first one after i in cyclic sample order. The paper
draws one at random. The lowest index would make one sample the neighbour of all in a constant column, and the rank of
that sample alone would determine the coefficient.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Number of nearest neighbours in A_S to search, for 1, 2, and 3 or more columns: first NEAR, then FAR if NEAR is
# inconclusive. Indices into NEAR must fit into a byte.
NEAR, FAR = (64, 24, 8), (128, 64, 32)
BLOCK = 1 << 20  # distances computed at a time, in addition to those in A_S


@dataclass(frozen=True)
class Selection:
    """Result of FOCI.

    Args:
        columns: Selected columns, in order of selection.
        dependence: T of each column when it was selected.
    """

    columns: tuple[int, ...]
    dependence: tuple[float, ...]


def dependence(columns: Tensor, losses: Tensor, given: Tensor | None = None) -> Tensor:
    """T of the losses on each column, marginal or given other columns.

    Args:
        columns: Candidates, ``(P, p)``.
        losses: ``(P,)``.
        given: Columns of S, ``(P, s)``; None for the marginal coefficient.

    Returns:
        ``(p,)``, in double precision; 0 if the denominator is 0 (nothing left to explain).
    """
    state = _State(columns, losses)
    for column in () if given is None else given.double().T:
        state.condition_on(column)
    return state.dependence(torch.arange(columns.shape[1], device=columns.device))


def foci(columns: Tensor, losses: Tensor, limit: int | None = None) -> Selection:
    """Forward selection: each step adds the column with the largest T given those already selected.

    Stops when no T is above 0 or ``limit`` is reached. Constant columns are never selected; ties go to the first.

    Args:
        columns: ``(P, p)``.
        losses: ``(P,)``.
        limit: Maximum number of columns; by default all.
    """
    state = _State(columns, losses)
    left = (columns != columns[:1]).any(0).nonzero()[:, 0]  # (p',)
    chosen: list[int] = []
    result: list[float] = []
    while len(left) and len(chosen) < (limit or columns.shape[1]):
        values = state.dependence(left)
        best = int(values.argmax())
        if values[best] <= 0:
            break
        chosen.append(int(left[best]))
        result.append(float(values[best]))
        state.condition_on(columns[:, chosen[-1]].double())
        left = torch.cat([left[:best], left[best + 1 :]])
    return Selection(tuple(chosen), tuple(result))


@dataclass(frozen=True)
class _Nearest:
    """K nearest neighbours of each sample in A_S, ordered as in its row of distances (see Ties).

    Args:
        samples: Neighbour indices, ``(P, K)``.
        distances: Squared distances, ``(P, K)``.
        beyond: Lower bound of the distances to all other samples, ``(P,)``.
    """

    samples: Tensor
    distances: Tensor
    beyond: Tensor


class _State:
    """Ranks of the losses and squared distances in A_S, updated as columns are added to S.

    Row i holds the distances to samples i + 1, ..., i - 1, cyclically. Its first minimum is therefore the neighbour
    according to the rule for ties, and no sample is its own neighbour.
    """

    def __init__(self, columns: Tensor, losses: Tensor) -> None:
        assert columns.dim() == 2, columns.shape
        assert losses.shape == columns.shape[:1], (columns.shape, losses.shape)
        self.size = len(losses)
        if self.size < 2:
            raise ValueError(f"dependence needs at least 2 samples, not {self.size}")
        self.columns = columns.double().T.contiguous()  # (p, P)
        losses = losses.contiguous()
        order = losses.sort().values
        self.ranks = torch.searchsorted(order, losses, right=True)  # (P,)
        self.above = self.size - torch.searchsorted(order, losses)
        self.distances: Tensor | None = None  # (P, P - 1)
        self.given = 0  # columns of S

    def condition_on(self, column: Tensor) -> None:
        """Add a column to S."""
        gaps_squared = (_around(column) - column[:, None]).square_()
        self.distances = gaps_squared if self.distances is None else self.distances.add_(gaps_squared)
        self.nearest = self._sample(self.distances.argmin(1))
        self.given += 1
        counts = [each[min(self.given, len(each)) - 1] for each in (NEAR, FAR)]
        values, indices = self.distances.topk(min(counts[-1] + 1, self.size - 1), dim=1, largest=False)
        self.near, self.far = (self._nearest(values, indices, count) for count in counts)

    def dependence(self, candidates: Tensor) -> Tensor:
        """T of each candidate column given S, ``(p,)``."""
        least = torch.cat([self._least(part) for part in candidates.split(self._block())])
        if self.distances is None:
            above = self.above
            top = self.size * least - above.square().sum()
            bottom = (above * (self.size - above)).sum()
        else:
            before = torch.minimum(self.ranks, self.ranks[self.nearest]).sum()
            top, bottom = least - before, self.ranks.sum() - before
        return top.double() / bottom if bottom else torch.zeros(len(least), dtype=torch.float64, device=least.device)

    def _block(self) -> int:
        return max(1, (BLOCK if self.distances is None else BLOCK // 32) // self.size)

    def _least(self, candidates: Tensor) -> Tensor:
        """Sum of ``min(R_i, R_M(i))`` for each candidate, ``(c,)``; integers, so summation order does not matter."""
        columns = self.columns[candidates]  # (c, P)
        neighbours = self._among_sorted(columns) if self.distances is None else self._among_near(columns)
        return torch.minimum(self.ranks, self.ranks[neighbours]).sum(1)

    def _among_sorted(self, columns: Tensor) -> Tensor:
        """M(i) in one column: one of the two adjacent samples in the sorted column, ``(c, P)``."""
        values, order = columns.sort(dim=1, stable=True)
        gaps = values.diff(dim=1).square()  # (c, P - 1)
        end = torch.full_like(gaps[:, :1], torch.inf)
        below, above = torch.cat([end, gaps], 1), torch.cat([gaps, end], 1)
        chosen = torch.where(below < above, order.roll(1, 1), order.roll(-1, 1))
        # With duplicate values or two equally near neighbours, the rule for ties needs all distances of the row.
        again = torch.cat([gaps == 0, torch.zeros_like(end, dtype=torch.bool)], 1)
        doubles = again | again.roll(1, 1)
        unclear = (below == above) | doubles | doubles.roll(1, 1) | doubles.roll(-1, 1)
        neighbours = torch.empty_like(order).scatter_(1, order, chosen)
        return self._decide(columns, neighbours, torch.empty_like(unclear).scatter_(1, order, unclear))

    def _among_near(self, columns: Tensor) -> Tensor:
        """M(i) in (A_S, A_j), ``(c, P)``.

        Adding a column cannot decrease a squared distance. If the best of the K nearest in A_S is nearer than the
        bound for all other samples, it is the nearest neighbour; only otherwise are the others searched.
        """
        # Samples first: one lookup fetches a neighbour for all candidates, and a block stays in the CPU cache.
        near = self.near
        own = columns.T.contiguous()  # (P, c)
        best, total = torch.full_like(own, torch.inf), torch.empty_like(own)
        nearer = torch.empty_like(own, dtype=torch.bool)
        index = torch.zeros_like(own, dtype=torch.uint8)
        at = nearer.view(torch.uint8)
        for number, (there, distance) in enumerate(zip(near.samples.T, near.distances.T, strict=True)):
            torch.index_select(own, 0, there, out=total)
            total.sub_(own)
            torch.addcmul(distance[:, None], total, total, out=total)
            torch.lt(total, best, out=nearer)  # strict: ties go to the first
            torch.maximum(index, at.mul_(number), out=index)  # numbers increase; masked_fill is 6x slower
            torch.minimum(best, total, out=best)
        neighbours = near.samples.gather(1, index.long()).T.contiguous()  # (c, P)
        unclear = (best >= near.beyond[:, None]).T.contiguous()
        far = self.far
        for part in unclear.nonzero().split(BLOCK // far.samples.shape[1]):
            which, sample = part.unbind(1)
            there = far.samples[sample]  # (n, K)
            gaps = columns[which[:, None], there].sub_(columns[which, sample][:, None])
            nearest, index = torch.addcmul(far.distances[sample], gaps, gaps).min(1)
            neighbours[which, sample] = there.gather(1, index[:, None])[:, 0]
            unclear[which, sample] = nearest >= far.beyond[sample]
        return self._decide(columns, neighbours, unclear)

    def _decide(self, columns: Tensor, neighbours: Tensor, unclear: Tensor) -> Tensor:
        """Search all distances of the rows whose nearest neighbour is unclear."""
        if not unclear.any():
            return neighbours
        around = _around(columns)  # (c, P, P - 1)
        for part in unclear.nonzero().split(max(1, BLOCK // (4 * self.size))):
            which, sample = part.unbind(1)
            total = around[which, sample].sub_(columns[which, sample][:, None]).square_()
            if self.distances is not None:
                total += self.distances[sample]
            neighbours[which, sample] = (sample + 1 + total.argmin(1)) % self.size
        return neighbours

    def _nearest(self, values: Tensor, indices: Tensor, count: int) -> _Nearest:
        """The ``count`` nearest neighbours, from ascending distances and their positions in the rows."""
        assert self.distances is not None
        if count < values.shape[1]:
            beyond, indices = values[:, count], indices[:, :count]
        else:  # all of them
            beyond = torch.full_like(values[:, 0], torch.inf)
        indices = indices.sort(1).values
        return _Nearest(self._sample(indices), self.distances.gather(1, indices), beyond)

    def _sample(self, indices: Tensor) -> Tensor:
        """Sample indices from positions in the rows of distances, ``(P,)`` or ``(P, K)``."""
        own = torch.arange(self.size, device=indices.device).view(-1, *[1] * (indices.dim() - 1))
        return (own + 1 + indices) % self.size


def _around(columns: Tensor) -> Tensor:
    """Cyclic shifts: row i holds entries i + 1, ..., i - 1; ``(..., P)`` to ``(..., P, P - 1)``, a view."""
    size = columns.shape[-1]
    return torch.cat([columns, columns], -1).unfold(-1, size - 1, 1)[..., 1 : size + 1, :]
