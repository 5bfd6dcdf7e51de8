"""Losses of a positive mean μ = exp(z), predicted by its logarithm z; targets y ≥ 0."""

from dataclasses import dataclass

import torch
from torch import Tensor

from sourcetrace.tasks.losses.loss import Loss


@dataclass(frozen=True)
class Tweedie(Loss):
    """Half the deviance of variance μ^power, without what does not depend on z.

    Convex in z for any power from 1 to 2: the curvature is the Hessian.

    Attributes:
        power: 1 is Poisson's, 2 Gamma's; between them a sum of a Poisson number of amounts.
    """

    power: float = 1.5

    def value(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return -y ∫ μ^-power dμ + ∫ μ^(1 - power) dμ."""
        return _integral(outputs, 2 - self.power) - targets * _integral(outputs, 1 - self.power)

    def curvature(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return (2 - power) μ^(2 - power) + (power - 1) y μ^(1 - power)."""
        rest = 2 - self.power
        return rest * torch.exp(rest * outputs) + (1 - rest) * targets * torch.exp(
            (rest - 1) * outputs
        )


class Poisson(Tweedie):
    """As `nn.PoissonNLLLoss`: exp(z) - y z."""

    def __init__(self) -> None:
        super().__init__(1.0)


class Gamma(Tweedie):
    """z + y exp(-z)."""

    def __init__(self) -> None:
        super().__init__(2.0)


def _integral(outputs: Tensor, exponent: float) -> Tensor:
    """Return μ^exponent / exponent, or log μ where the exponent is 0."""
    return torch.exp(exponent * outputs) / exponent if exponent else outputs
