r"""Rank-one Hessian approximations from two gradients, and the Newton step of a deletion.

With gradients :math:`g_1, g_2` at weights :math:`w_1, w_2`, the Hessian is approximated by
:math:`(g_1 - g_2)(g_1 - g_2)^T / \lVert w_1 - w_2 \rVert_1` (Mehta et al., "Deep Unlearning via Randomized
Conditionally Independent Hessians", CVPR 2022). It is stored as a vector a with Hessian ``a aᵀ``.
"""

from __future__ import annotations

import torch
from torch import Tensor


def rank_one(gradients: tuple[Tensor, Tensor], displacement: Tensor) -> Tensor:
    """Vector a of the Hessian ``a aᵀ``, ``(W,)``.

    Args:
        gradients: Gradients of the same loss on the same examples at two sets of weights, ``(W,)`` each.
        displacement: Difference of the weights, ``(W,)``; not zero.
    """
    length = displacement.abs().sum()
    assert length > 0, "the gradients are of the same weights"
    return (gradients[0] - gradients[1]) / length.sqrt()


def solve(damping: float, vectors: Tensor, weights: Tensor, right: Tensor) -> Tensor:
    r"""``(λI + Σ c_k a_k a_kᵀ)⁻¹ g`` by the Sherman-Morrison-Woodbury identity, in double precision.

    .. math:: (\lambda I + U C U^T)^{-1} g = \frac{1}{\lambda} \left( g - U (\lambda I + C U^T U)^{-1} C U^T g \right)

    Args:
        damping: λ, positive.
        vectors: Columns a_k, ``(W, r)``, r small.
        weights: c_k, ``(r,)``, positive or negative.
        right: g, ``(W,)``.

    Returns:
        ``(W,)``, in double precision.
    """
    U, c, g = vectors.double(), weights.double(), right.double()
    small = damping * torch.eye(len(c), dtype=torch.float64, device=U.device) + c[:, None] * (U.T @ U)  # (r, r)
    inner: Tensor = torch.linalg.solve(small, c * (U.T @ g))
    return (g - U @ inner) / damping


def deletion_step(gradient: Tensor, train: Tensor, deleted: Tensor, count: int, batch: int, damping: float) -> Tensor:
    r"""Newton step for the weights when ``batch`` of ``count`` examples are deleted.

    .. math::
        (H + \lambda I)^{-1} \frac{b \, g}{n - b}, \qquad H = \frac{n H_{train} - b H_z}{n - b}

    Gradient and Hessians are those of mean losses; with b = 1 this is the step of L-CODEC for one example.

    Args:
        gradient: g of the deleted examples, ``(W,)``.
        train: Vector of :math:`H_{train}`, see :func:`rank_one`, ``(W,)``.
        deleted: Vector of :math:`H_z`, ``(W,)``.
        count: n, number of examples before the deletion.
        batch: b, number of deleted examples; fewer than n.
        damping: λ.

    Returns:
        ``(W,)``, in double precision.
    """
    left = count - batch
    weights = torch.tensor([count / left, -batch / left], device=gradient.device)
    return solve(damping, torch.stack([train, deleted], dim=1), weights, gradient) * (batch / left)
