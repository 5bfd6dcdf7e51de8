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
def products_in(precision: Precision, device: torch.device) -> Iterator[None]:
    """Let a GPU round the factors of float32's products where that is asked for, and only there.

    By default torch does so in convolutions, and says nothing.

    Args:
        precision: Of the products.
        device: Where they are; without a GPU nothing is changed.
    """
    if device.type != "cuda":
        yield
        return
    flags = _flags()
    before = [getattr(*flag[:2]) for flag in flags]
    for owner, name, values in flags:
        setattr(owner, name, values[precision == "tf32"])
    try:
        yield
    finally:
        for (owner, name, _), value in zip(flags, before, strict=True):
            setattr(owner, name, value)


def _flags() -> list[tuple[Any, str, tuple[Any, Any]]]:
    """Return torch's flags, owner and name, with their values for float32 and for TF32.

    There are old and new ones, and torch refuses to multiply where both were set: ours are those
    that the user's code left readable, the old ones if it set none.
    """
    products, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    try:
        _ = products.allow_tf32, cudnn.allow_tf32
    except RuntimeError:
        convolutions = cudnn.conv  # type: ignore[attr-defined]
        return [(one, "fp32_precision", ("ieee", "tf32")) for one in (products, convolutions)]
    return [(one, "allow_tf32", (False, True)) for one in (products, cudnn)]


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
