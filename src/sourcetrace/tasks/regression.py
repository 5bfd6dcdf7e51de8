"""Regression: one output an example, [B] or [B, 1], and squared error."""

import math
from typing import Any

import torch
from torch import Tensor

from sourcetrace.core.model.objective import signs
from sourcetrace.errors import InputError
from sourcetrace.tasks.protocol import TaskBase


class RegressionTask(TaskBase):
    """Squared error times `loss_scale`, as training loss and as measurement.

    Attributes:
        loss_scale: 0.5; set it to 1.0 if the model was trained with `nn.MSELoss`: gradients and
            curvature are then twice as large, and Source's filters are not linear in them.
    """

    loss_scale: float = 0.5

    measurement_higher_is_better = False

    def train_loss(self, outputs: Tensor, batch: Any) -> Tensor:
        """Return loss_scale · (output - target)², [B]."""
        predictions, targets = _flat(outputs), _flat(batch[1])
        if predictions.shape != targets.shape:
            raise InputError(
                f"The outputs have shape {list(outputs.shape)} and the targets "
                f"{list(batch[1].shape)}; expected [B] or [B, 1] of both."
            )
        return self.loss_scale * (predictions - targets).square()

    def sampled_loss(
        self, outputs: Tensor, generator: torch.Generator, batch: Any = None
    ) -> Tensor:
        """Return a loss with the gradient of targets 1 above or below the output, [B].

        The curvature asks of the residual that its mean square be 1. A normal one has that on
        average; a sign has it in every draw, so the estimate has no sampling error at all.
        """
        predictions = _flat(outputs)
        residual = signs(generator, [len(predictions)], like=predictions.detach())
        # The gradient of the loss, in a form where a residual beside a large output is not lost.
        return -math.sqrt(2 * self.loss_scale) * residual * predictions

    def measurement(self, outputs: Tensor, batch: Any) -> Tensor:
        """Return loss_scale · (output - target)², [B]."""
        return self.train_loss(outputs, batch)

    def describe(self, outputs: Tensor, batch: Any) -> dict[str, list[Any]]:
        """Return the prediction as text, B values."""
        return {"predicted_label": [f"{value:.4g}" for value in _flat(outputs).tolist()]}


def _flat(values: Tensor) -> Tensor:
    if values.ndim == 2 and values.shape[1] == 1:  # noqa: PLR2004
        return values.squeeze(-1)
    if values.ndim != 1:
        raise InputError(
            f"RegressionTask got outputs or targets of shape {list(values.shape)}; expected [B] or "
            "[B, 1]. For several targets write train_loss, sampled_loss and measurement yourself."
        )
    return values
