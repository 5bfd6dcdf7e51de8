"""Losses of one logit and a target 0 or 1."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sourcetrace.tasks.losses.loss import Loss, constant
from sourcetrace.tasks.losses.margin import margin_bend, margin_loss


@dataclass(frozen=True, kw_only=True)
class BinaryCrossEntropy(Loss):
    """As `nn.BCEWithLogitsLoss`: logits [B, …], targets 0 to 1 of the same shape.

    Attributes:
        pos_weight: Factor of the loss of target 1; one number, or one a label.
        label_smoothing: s; a target y counts as y (1 - s) + s / 2.
    """

    pos_weight: float | Sequence[float] | None = None
    label_smoothing: float = 0.0

    @property
    def needs_targets(self) -> bool:
        """Whether targets of 1 have a weight."""
        return self.pos_weight is not None

    def value(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return -w y log p - (1 - y) log(1 - p)."""
        ones, zeros = self._weights(outputs, targets)
        return ones * margin_loss(outputs, 0) + zeros * margin_loss(-outputs, 0)

    def curvature(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return (w y + 1 - y) p (1 - p), the Hessian."""
        bend = margin_bend(outputs, 0)
        return bend * sum(self._weights(outputs, targets)) if self.needs_targets else bend

    def _weights(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the factors of log p and of log(1 - p)."""
        weight = 1.0 if self.pos_weight is None else self.pos_weight
        ones: Tensor = targets * (1 - self.label_smoothing) + self.label_smoothing / 2
        return constant(weight, like=outputs) * ones, 1 - ones


@dataclass(frozen=True, kw_only=True)
class BinaryFocalLoss(Loss):
    """As torchvision's `sigmoid_focal_loss`: logits [B, …], targets 0 or 1 of the same shape.

    The second derivative is negative where the given label has a small probability (below 0.06
    with γ = 2); the curvature is 0 there and exact elsewhere.

    Attributes:
        gamma: γ ≥ 0 in -(1 - p)^γ log p, where p is the probability of the given label.
        alpha: Factor of the loss of target 1, that of target 0 being 1 - alpha; None for neither.
    """

    gamma: float = 2.0
    alpha: float | None = 0.25
    exact: ClassVar[bool] = False

    def value(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return -α (1 - p)^γ log p."""
        ones, zeros = self._weights(targets)
        return ones * margin_loss(outputs, self.gamma) + zeros * margin_loss(-outputs, self.gamma)

    def curvature(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the second derivative, or 0 where it is negative."""
        ones, zeros = self._weights(targets)
        return ones * margin_bend(outputs, self.gamma) + zeros * margin_bend(-outputs, self.gamma)

    def _weights(self, targets: Tensor) -> tuple[Tensor, Tensor]:
        if self.alpha is None:
            return targets, 1 - targets
        return self.alpha * targets, (1 - self.alpha) * (1 - targets)
