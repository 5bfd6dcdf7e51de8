"""Losses of C logits and a class, or a distribution over classes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F  # noqa: N812, the name everybody reads
from torch import Tensor

from sourcetrace.errors import InputError
from sourcetrace.tasks.losses.loss import Loss, constant
from sourcetrace.tasks.losses.margin import margin_bend, margin_loss, margin_slope


@dataclass(frozen=True, kw_only=True)
class _Weighted(Loss):
    """Class weights of a loss of logits [B, …, C].

    Attributes:
        class_weights: One factor a class.
        mean_weight: What the weighted loss is divided by. `nn.CrossEntropyLoss(weight=…)` divides
            a batch's sum of w_y ℓ by its sum of w_y, so that an example's own loss, whose mean
            over the batch was minimised, is w_y ℓ by the mean of w_y over the training examples
            (those of an ignored label count there with 0). 1 for a mean of w_y ℓ.
    """

    class_weights: Sequence[float] | None = None
    mean_weight: float | None = None

    several_outputs: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.class_weights is not None and self.mean_weight is None:
            raise InputError(
                f"{type(self).__name__}: class_weights came without mean_weight. If the training "
                "had the weighted mean of nn.CrossEntropyLoss(weight=…), give the mean of the "
                "examples' weights, weights[labels].mean() over the training labels; give 1 if "
                "it divided by the number of examples."
            )

    def _weights(self, like: Tensor) -> Tensor:
        """Return the factor of every class's log p, [C]."""
        if self.class_weights is None:
            return like.new_full([like.shape[-1]], 1 / (self.mean_weight or 1.0))
        if len(self.class_weights) != like.shape[-1]:
            raise InputError(
                f"{type(self).__name__}: there are {len(self.class_weights)} class_weights for "
                f"outputs of {like.shape[-1]} classes. Give one a class, in the order of the "
                "logits."
            )
        return constant(self.class_weights, like=like) / (self.mean_weight or 1.0)


@dataclass(frozen=True, kw_only=True)
class CrossEntropy(_Weighted):
    """As `nn.CrossEntropyLoss`: logits [B, …, C], targets int64 [B, …] or a share a class.

    Attributes:
        label_smoothing: s; the target of class c counts as y_c (1 - s) + s / C.
    """

    label_smoothing: float = 0.0

    @property
    def needs_targets(self) -> bool:
        """Whether classes have weights."""
        return self.class_weights is not None

    def value(self, outputs: Tensor, targets: Any) -> Tensor:
        """Return -Σ_c w_c y_c log p_c."""
        losses: Tensor = F.cross_entropy(
            outputs.flatten(0, -2),
            targets.flatten() if targets.ndim < outputs.ndim else targets.flatten(0, -2),
            weight=self._weights(outputs),
            reduction="none",
            label_smoothing=self.label_smoothing,
        )
        return losses.reshape(outputs.shape[:-1])

    def root(self, outputs: Tensor, targets: Any, signs: Tensor) -> Tensor:
        """Return a draw with the second moment (Σ_c w_c y_c) (diag(p) - p pᵀ), the Hessian.

        A label drawn from the softmax gives the gradient p - e_y: almost always nearly zero
        where the model is sure, rarely large, so a data set's worth of draws estimates the
        curvature badly. B ε with B Bᵀ = diag(p) - p pᵀ and random signs ε has the same second
        moment and a steady length (*derived*: B = diag(√p) - p √pᵀ).
        """
        p = outputs.softmax(-1)
        # In place: over a large vocabulary each of these is as large as the rest together.
        draws = p.sqrt().mul_(signs)
        draws.sub_(p.mul_(draws.sum(-1, keepdim=True)))
        return draws.mul_(self._total(outputs, targets).sqrt().unsqueeze(-1))

    def _total(self, outputs: Tensor, targets: Any) -> Tensor:
        """Return Σ_c w_c y_c, [B, …]."""
        weights = self._weights(outputs)
        if targets is None:
            return weights[0]  # of any one class
        given = weights[targets] if targets.ndim < outputs.ndim else (targets * weights).sum(-1)
        return given * (1 - self.label_smoothing) + weights.mean() * self.label_smoothing


@dataclass(frozen=True, kw_only=True)
class FocalLoss(_Weighted):
    """-(1 - p)^γ log p of the given class: logits [B, …, C], targets int64 [B, …].

    With the margin m of the given class, s the softmax of the other classes and f(m) the loss,
    the Hessian is f''(m) (e_y - s)(e_y - s)ᵀ - f'(m) (diag(s) - s sᵀ). f'' is negative where p
    is small (below 0.06 with γ = 2); the curvature has 0 for it there and is exact elsewhere.

    Attributes:
        gamma: γ ≥ 0.
    """

    gamma: float = 2.0
    exact: ClassVar[bool] = False

    def value(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return -w_y (1 - p_y)^γ log p_y."""
        margins = class_margins(outputs, targets)
        return self._weights(outputs)[targets] * margin_loss(margins, self.gamma)

    def root(self, outputs: Tensor, targets: Tensor, signs: Tensor) -> Tensor:
        """Return a draw whose second moment is the Hessian, without what is negative of it."""
        margins = class_margins(outputs, targets)
        weights = self._weights(outputs)[targets]
        given = F.one_hot(targets, outputs.shape[-1]).bool()
        others = outputs.masked_fill(given, -torch.inf).softmax(-1)
        draws = others.sqrt() * signs
        spread = draws - others * draws.sum(-1, keepdim=True)
        # The given class has no share in `others`, so its sign is free.
        along = (given.to(others) - others) * signs.gather(-1, targets.unsqueeze(-1))
        bend = (weights * margin_bend(margins, self.gamma)).sqrt().unsqueeze(-1)
        slope = (weights * margin_slope(margins, self.gamma)).sqrt().unsqueeze(-1)
        return bend * along + slope * spread


def class_margins(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return log p - log(1 - p) of the given classes, [B, …], exact where p is near 0 or 1."""
    if targets.ndim == outputs.ndim:
        raise InputError(
            "FocalLoss got a share of every class as targets; expected class numbers. Use "
            "CrossEntropy, or targets.argmax(-1) where the shares are 0 and 1."
        )
    index = targets.unsqueeze(-1)
    others = outputs.scatter(-1, index, -torch.inf)
    # log p - log(1 - p) = logit - logsumexp of the other logits.
    return outputs.gather(-1, index).squeeze(-1) - others.logsumexp(-1)
