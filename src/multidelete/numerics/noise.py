"""How much noise hides what gradient descent, or a Newton step, has left of deleted examples."""

from __future__ import annotations

import math


def descent_sigma(
    steps: int, count: int, strong: float, smooth: float, lipschitz: float, epsilon: float, delta: float
) -> float:
    r"""Deviation of the noise of Descent-to-Delete.

    .. math::
        \gamma = \frac{M - m}{M + m}, \qquad
        \sigma = \frac{4 \sqrt 2 \, L \, \gamma^I}
                      {m \, n \, (1 - \gamma^I) (\sqrt{\ln(1 / \delta) + \varepsilon} - \sqrt{\ln(1 / \delta)})}

    (Neel, Roth and Sharifi-Malvajerdi, "Descent-to-Delete: Gradient-Based Methods for Machine Unlearning", ALT 2021.)

    Args:
        steps: I, steps of gradient descent that were taken, at least 1.
        count: n, examples that are kept.
        strong: m, strong convexity.
        smooth: M, smoothness; larger than m.
        lipschitz: L, Lipschitz constant of an example's loss.
        epsilon: Indistinguishability from a model trained without the examples.
        delta: Probability with which that may fail.

    >>> round(descent_sigma(1, 145_000, 0.02, 3.98, 1.02, 5.0, 145_000**-2), 2)
    0.4
    """
    shrunk = ((smooth - strong) / (smooth + strong)) ** steps
    hardness = math.log(1 / delta)
    room = math.sqrt(hardness + epsilon) - math.sqrt(hardness)
    return 4 * math.sqrt(2) * lipschitz * shrunk / (strong * count * (1 - shrunk) * room)


def newton_sigma(count: int, damping: float, lipschitz: float, epsilon: float, delta: float) -> float:
    r"""Deviation of the noise after a Newton step, as in L-CODEC.

    .. math::
        \gamma = \frac{2 \cdot 0.25 \, m^2}{n^2 \lambda^3}, \qquad
        \sigma = \frac{\gamma}{\varepsilon} \sqrt{2 \ln(1.25 / \delta)}

    Args:
        count: n, training examples.
        damping: :math:`\lambda`, what is added to the Hessian's diagonal.
        lipschitz: m, Lipschitz constant of an example's loss.
        epsilon: Indistinguishability from a model trained without the example.
        delta: Probability with which that may fail.

    >>> round(newton_sigma(145_000, 0.01, 1.0, 0.1, 0.01), 6)
    0.000739
    """
    gap = 2 * 0.25 * lipschitz**2 / (count**2 * damping**3)
    return gap / epsilon * math.sqrt(2 * math.log(1.25 / delta))
