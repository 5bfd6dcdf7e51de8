"""Precisions of passes and products.

`tf32` rounds the factors of float32's products to TensorFloat-32 on a GPU that has it, and is
float32 elsewhere. `bfloat16` runs forward passes under autocast; what they hand to the losses,
and all that is recorded of them, is float32 again.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch

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
    rounded = precision == "tf32"
    cudnn: Any = torch.backends.cudnn
    with ExitStack() as restored:
        # There are old flags and new ones, and torch refuses to multiply where both were set.
        try:
            before = torch.get_float32_matmul_precision(), cudnn.allow_tf32
        except RuntimeError:  # the user's code has set new ones
            for one in (torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn):
                restored.callback(setattr, one, "fp32_precision", one.fp32_precision)
                one.fp32_precision = "tf32" if rounded else "ieee"
        else:
            restored.callback(torch.set_float32_matmul_precision, before[0])
            restored.callback(setattr, cudnn, "allow_tf32", before[1])
            torch.set_float32_matmul_precision("high" if rounded else "highest")
            cudnn.allow_tf32 = rounded
        # Of cuDNN's algorithms some add up in an open order; timing them picks another each time.
        for name, value in (("deterministic", True), ("benchmark", False)):
            restored.callback(setattr, cudnn, name, getattr(cudnn, name))
            setattr(cudnn, name, value)
        yield
