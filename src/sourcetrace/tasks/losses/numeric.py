"""Losses of a number and its prediction z; u = z - y, all [B, …]."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sourcetrace.tasks.losses.loss import Loss, constant


@dataclass(frozen=True)
class SquaredError(Loss):
    """scale · u²; the scale is 1 in `nn.MSELoss`."""

    scale: float = 1.0

    @property
    def needs_targets(self) -> bool:
        """No."""
        return False

    def value(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return scale · u²."""
        return self.scale * (outputs - targets).square()

    def curvature(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return 2 · scale, the Hessian."""
        return torch.full_like(outputs, 2 * self.scale)


@dataclass(frozen=True)
class Huber(Loss):
    """As `nn.HuberLoss`: u² / 2 where |u| < delta, delta (|u| - delta / 2) elsewhere."""

    delta: float = 1.0

    def value(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss."""
        return torch.nn.functional.huber_loss(outputs, targets, reduction="none", delta=self.delta)

    def curvature(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return 1 where |u| < delta and 0 elsewhere, the Hessian."""
        return ((outputs - targets).abs() < self.delta).to(outputs)


@dataclass(frozen=True)
class SmoothL1(Loss):
    """As `nn.SmoothL1Loss`: Huber's loss by its delta, here beta > 0."""

    beta: float = 1.0

    def value(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss."""
        return Huber(self.beta).value(outputs, targets) / self.beta

    def curvature(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return 1 / beta where |u| < beta and 0 elsewhere, the Hessian."""
        return Huber(self.beta).curvature(outputs, targets) / self.beta


@dataclass(frozen=True)
class Quantile(Loss):
    """The pinball loss: level · |u| where the prediction is too low, else (1 - level) · |u|.

    Its second derivative is 0 but in the kink. What bends the mean over many targets is how many
    lie near the prediction: E ℓ'' is the targets' density at z. It is counted in a window of
    half-width `width`, as the Hessian of the loss convolved with that window does (Fernandes et
    al. 2021, arXiv 2101.03735, uniform kernel).

    Attributes:
        level: Of the quantile; one, or one an output.
        width: h, in the targets' unit. Of the size of the training residuals: with a fifth of
            them inside, a curvature is counted, and not noise; far wider, it is too small.
    """

    level: float | Sequence[float]
    width: float
    exact: ClassVar[bool] = False

    def value(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return max(level · (y - z), (level - 1) · (y - z))."""
        below = targets - outputs
        level = constant(self.level, like=outputs)
        return torch.maximum(level * below, (level - 1) * below)

    def curvature(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return 1 / (2 h) where |u| < h and 0 elsewhere."""
        return ((outputs - targets).abs() < self.width).to(outputs) / (2 * self.width)


@dataclass(frozen=True)
class AbsoluteError(Loss):
    """|u|, twice the pinball loss of the median; `width` as there."""

    width: float
    exact: ClassVar[bool] = False

    def value(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return |u|."""
        return (outputs - targets).abs()

    def curvature(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return 1 / h where |u| < h and 0 elsewhere."""
        return 2 * Quantile(0.5, self.width).curvature(outputs, targets)


@dataclass(frozen=True, kw_only=True)
class GaussianNLL(Loss):
    """(log v + u² / v) / 2 of a predicted mean and variance v: outputs [B, …, 2].

    The Hessian has a negative eigenvalue wherever u is not 0. Its mean over targets drawn from
    the predicted normal, the Fisher matrix, is diag(1 / v, 1 / 2) for (mean, log v).

    Attributes:
        log_variance: Whether the second output is log v, or v, which is then at least `eps`, and
            has its gradient as if it were, as in `nn.GaussianNLLLoss`.
    """

    log_variance: bool = True
    eps: float = 1e-6
    exact: ClassVar[bool] = False

    several_outputs: ClassVar[bool] = True

    def value(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return (log v + u² / v) / 2, [B, …]."""
        mean, log_variance = self._parts(outputs)
        return (log_variance + (mean - targets).square() * torch.exp(-log_variance)) / 2

    def root(self, outputs: Tensor, targets: Tensor, signs: Tensor) -> Tensor:
        """Return a draw whose second moment is the Fisher matrix."""
        _, log_variance = self._parts(outputs)
        of_mean = torch.exp(-log_variance / 2)
        of_second = torch.full_like(of_mean, math.sqrt(0.5))
        if not self.log_variance:
            of_second = of_second * torch.exp(-log_variance)
        return torch.stack((of_mean, of_second), -1) * signs

    def _parts(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean and the logarithm of the variance."""
        mean, second = outputs.unbind(-1)
        if self.log_variance:
            return mean, second
        # Torch's own gradient passes where the variance is raised to eps.
        raised = self.eps + (second - second.detach())
        return mean, raised.where(second < self.eps, second).log()
