"""Regression: one or several numbers an example."""

from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from sourcetrace.errors import InputError
from sourcetrace.tasks.loss_task import ManyPartsTask, Parts
from sourcetrace.tasks.losses import Loss, SquaredError

_SHOWN = 8


class RegressionTask(ManyPartsTask):
    """Outputs and targets [B], [B, 1] or [B, K]; measured by the training loss.

    Attributes:
        loss: Such as `Huber(delta=1.0)`; squared error times `loss_scale` by default.
        loss_scale: Of squared error, 0.5; set it to 1.0 if the model was trained with `nn.MSELoss`:
            gradients and curvature are then twice as large, and Source's filters are not linear
            in them.
        reduction: The "mean" over the outputs, as in `nn.MSELoss`, their "sum", or a divisor.
    """

    measurement_higher_is_better = False
    loss_scale: float = 0.5

    @cached_property
    def loss(self) -> Loss:  # type: ignore[override]  # a subclass gives another one
        """Return squared error times `loss_scale`."""
        return SquaredError(self.loss_scale)

    def describe(self, outputs: Tensor, batch: Any) -> dict[str, list[Any]]:
        """Return the prediction as text, B values."""
        predictions = outputs[..., 0] if self.loss.several_outputs else outputs
        rows = predictions.reshape(len(predictions), -1).tolist()
        return {
            "predicted_label": [
                ", ".join(f"{value:.4g}" for value in row[:_SHOWN])
                + (", …" if len(row) > _SHOWN else "")
                for row in rows
            ]
        }

    def _parts(self, outputs: Tensor, batch: Any) -> Parts:
        several = self.loss.several_outputs
        if several and (outputs.ndim < 2 or outputs.shape[-1] != 2):  # noqa: PLR2004
            raise InputError(
                f"{type(self.loss).__name__} got outputs of shape {list(outputs.shape)}; expected "
                "two numbers a target, [B, 2] or [B, K, 2]. Let forward() stack them in the last "
                "dimension."
            )
        shape = outputs.shape[:-1] if several else outputs.shape
        weights = self._weights(outputs.new_ones(shape))
        if batch is None:
            return Parts(outputs, None, weights)
        targets = self.targets_of(batch)
        if _without_column(shape) != _without_column(targets.shape):
            raise InputError(
                f"The outputs have shape {list(outputs.shape)} and the targets "
                f"{list(targets.shape)}; expected one prediction a target."
            )
        return Parts(outputs, targets.reshape(shape).to(outputs), weights)


def _without_column(shape: torch.Size) -> tuple[int, ...]:
    return shape[:1] if len(shape) == 2 and shape[1] == 1 else shape  # noqa: PLR2004
