r"""Hessians of rank one from two gradients, and the Newton step of a deletion with them.

Where :math:`g_1` and :math:`g_2` are gradients at the weights :math:`w_1` and :math:`w_2`, the Hessian between them is
taken as :math:`(g_1 - g_2)(g_1 - g_2)^T / \lVert w_1 - w_2 \rVert_1` (Mehta et al., "Deep Unlearning via Randomized
Conditionally Independent Hessians", CVPR 2022). It is kept as the one vector whose outer product with itself it is.
"""

from __future__ import annotations

import torch
from torch import Tensor


def rank_one(gradients: tuple[Tensor, Tensor], displacement: Tensor) -> Tensor:
    """The vector a of the Hessian ``a aᵀ``, ``(W,)``.

    Args:
        gradients: At the one and at the other weights, ``(W,)`` each; both fresh, of the same loss and examples.
        displacement: What lies between the weights, ``(W,)``; not zero.
    """
    length = displacement.abs().sum()
    assert length > 0, "the gradients are of the same weights"
    return (gradients[0] - gradients[1]) / length.sqrt()


def solve(damping: float, vectors: Tensor, weights: Tensor, right: Tensor) -> Tensor:
    r"""``(λI + Σ c_k a_k a_kᵀ)⁻¹ g`` by the Sherman-Morrison-Woodbury identity, in double precision.

    .. math:: (\lambda I + U C U^T)^{-1} g = \frac{1}{\lambda} \left( g - U (\lambda I + C U^T U)^{-1} C U^T g \right)

    Args:
        damping: λ, positive.
        vectors: The a_k, ``(W, r)``, few.
        weights: The c_k, ``(r,)``, of either sign.
        right: g, ``(W,)``.

    Returns:
        ``(W,)``, in double precision.
    """
    U, c, g = vectors.double(), weights.double(), right.double()
    small = damping * torch.eye(len(c), dtype=torch.float64, device=U.device) + c[:, None] * (U.T @ U)  # (r, r)
    inner: Tensor = torch.linalg.solve(small, c * (U.T @ g))
    return (g - U @ inner) / damping


def deletion_step(gradient: Tensor, whole: Tensor, deleted: Tensor, count: int, batch: int, damping: float) -> Tensor:
    r"""What a Newton step adds to the weights when ``batch`` of ``count`` examples are deleted.

    .. math::
        (H + \lambda I)^{-1} \frac{b \, g}{n - b}, \qquad H = \frac{n H_{train} - b H_z}{n - b}

    Gradient and Hessians are those of mean losses; with b = 1 this is the step of L-CODEC for one example.

    Args:
        gradient: g of the deleted examples, ``(W,)``.
        whole: Vector of :math:`H_{train}`, see :func:`rank_one`, ``(W,)``.
        deleted: Vector of :math:`H_z`, ``(W,)``.
        count: n, examples before the deletion.
        batch: b, examples that are deleted now; fewer than n.
        damping: λ.

    Returns:
        ``(W,)``, in double precision.
    """
    left = count - batch
    weights = torch.tensor([count / left, -batch / left], device=gradient.device)
    return solve(damping, torch.stack([whole, deleted], dim=1), weights, gradient) * (batch / left)
