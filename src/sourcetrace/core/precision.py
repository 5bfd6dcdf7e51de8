"""Precisions of passes and products.

`tf32` rounds the factors of float32's products to TensorFloat-32 on a GPU that has it, and is
float32 elsewhere. `bfloat16` runs forward passes under autocast; what they hand to the losses,
and all that is recorded of them, is float32 again.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from sourcetrace.core.objective import Objective

Precision = Literal["float32", "tf32", "bfloat16"]


@contextmanager
def products_in(precision: Precision) -> Iterator[None]:
    """Let a GPU round the factors of float32's products where that is asked for, and only there.

    By default torch does so in convolutions, and says nothing.
    """
    backends: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)  # type: ignore[attr-defined]
    before = [one.fp32_precision for one in backends]
    for one in backends:
        one.fp32_precision = "tf32" if precision == "tf32" else "ieee"
    try:
        yield
    finally:
        for one, value in zip(backends, before, strict=True):
            one.fp32_precision = value


class RoundedObjective:
    """An objective whose forward passes are autocast to bfloat16.

    Args:
        objective: The objective.
        device: Where the model is.
        dtype: Of what the losses get.
    """

    def __init__(self, objective: Objective, device: torch.device, dtype: torch.dtype) -> None:
        self._objective, self._device, self._dtype = objective, device, dtype

    def forward(self, model: nn.Module, batch: Any) -> Any:
        """Return the model's outputs."""
        with torch.autocast(self._device.type, torch.bfloat16):
            return cast(self._objective.forward(model, batch), self._dtype)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._objective, name)


class DoubledObjective:
    """An objective for a model in float64, whose batches are made so."""

    def __init__(self, objective: Objective) -> None:
        self._objective = objective

    def forward(self, model: nn.Module, batch: Any) -> Any:
        """Return the model's outputs."""
        return self._objective.forward(model, cast(batch, torch.float64))

    def train_loss(self, outputs: Any, batch: Any) -> Tensor:
        """Return the loss, [B]."""
        return self._objective.train_loss(outputs, cast(batch, torch.float64))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._objective, name)


def cast(values: Any, dtype: torch.dtype) -> Any:
    """Return nested values with their floating-point tensors in another precision."""

    def one(value: Any) -> Any:
        if isinstance(value, Tensor) and value.is_floating_point():
            return value.to(dtype)
        return value

    return tree_map(one, values)
