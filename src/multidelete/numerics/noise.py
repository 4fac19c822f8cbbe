"""Standard deviation of the Gaussian noise of Descent-to-Delete and L-CODEC."""

from __future__ import annotations

import math


def descent_sigma(
    steps: int, count: int, strong: float, smooth: float, lipschitz: float, epsilon: float, delta: float
) -> float:
    r"""Standard deviation of the noise of Descent-to-Delete.

    .. math::
        \gamma = \frac{M - m}{M + m}, \qquad
        \sigma = \frac{4 \sqrt 2 \, L \, \gamma^I}
                      {m \, n \, (1 - \gamma^I) (\sqrt{\ln(1 / \delta) + \varepsilon} - \sqrt{\ln(1 / \delta)})}

    (Neel, Roth and Sharifi-Malvajerdi, "Descent-to-Delete: Gradient-Based Methods for Machine Unlearning", ALT 2021.)

    Args:
        steps: I, number of gradient descent steps, at least 1.
        count: n, number of retained examples.
        strong: m, strong convexity.
        smooth: M, smoothness; larger than m.
        lipschitz: L, Lipschitz constant of an example's loss.
        epsilon: Indistinguishability from a model trained without the deleted examples.
        delta: Allowed failure probability of the guarantee.

    >>> round(descent_sigma(1, 145_000, 0.02, 3.98, 1.02, 5.0, 145_000**-2), 2)
    0.4
    """
    shrunk = ((smooth - strong) / (smooth + strong)) ** steps
    hardness = math.log(1 / delta)
    room = math.sqrt(hardness + epsilon) - math.sqrt(hardness)
    return 4 * math.sqrt(2) * lipschitz * shrunk / (strong * count * (1 - shrunk) * room)


def newton_sigma(count: int, damping: float, lipschitz: float, epsilon: float, delta: float) -> float:
    r"""Standard deviation of the noise after a Newton step (L-CODEC).

    .. math::
        \gamma = \frac{2 \cdot 0.25 \, m^2}{n^2 \lambda^3}, \qquad
        \sigma = \frac{\gamma}{\varepsilon} \sqrt{2 \ln(1.25 / \delta)}

    Args:
        count: n, number of training examples.
        damping: :math:`\lambda`, added to the diagonal of the Hessian.
        lipschitz: m, Lipschitz constant of an example's loss.
        epsilon: Indistinguishability from a model trained without the deleted example.
        delta: Allowed failure probability of the guarantee.

    >>> round(newton_sigma(145_000, 0.01, 1.0, 0.1, 0.01), 6)
    0.000739
    """
    gap = 2 * 0.25 * lipschitz**2 / (count**2 * damping**3)
    return gap / epsilon * math.sqrt(2 * math.log(1.25 / delta))
