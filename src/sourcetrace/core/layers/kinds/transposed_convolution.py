"""Transposed convolutions: convolutions in which the input and the output change places.

An input position adds its channels, times the kernel, to a patch of the output. So an input of the
layer is one position's channels, and an output gradient the patch of the gradient there. A bias
adds to output positions instead: it is a layer of its own, of one position an example, whose
output gradient is the sum over all of them.
"""

from operator import attrgetter
from typing import Any

import torch.nn.functional as F  # noqa: N812, the name everybody reads
from torch import Tensor, nn

from sourcetrace.core.layers.kinds.convolution import pixels_by_group, unfolded
from sourcetrace.core.layers.kinds.types import LayerType


def _patches(module: Any, gradients: Tensor) -> Tensor:
    """Return the gradient's patches at input positions, [N, groups, S, kernel · C_out / groups]."""
    sides: list[int] = []
    sizes = zip(module.padding, module.output_padding, module.stride, strict=True)
    for padding, more, stride in list(sizes)[::-1]:
        # Patches that begin behind the last input's are cut off; there are some where dilation
        # allows an output padding beyond the stride.
        sides += [padding, padding - more // stride * stride]
    return unfolded(module, F.pad(gradients, sides))


def _one(_: nn.Module, inputs: Tensor) -> Tensor:
    return inputs.new_ones(len(inputs), 1, 1, 1)


def _sums(_: nn.Module, gradients: Tensor) -> Tensor:
    """Return [N, C, …] summed over its positions, [N, 1, 1, C]."""
    return gradients.flatten(2).sum(2)[:, None, None]


TRANSPOSED_CONVOLUTIONS = tuple(
    LayerType(
        kind,
        pixels_by_group,
        _patches,
        attrgetter("groups"),
        transposed=True,
        channels_last=True,
        bias=LayerType(kind, _one, _sums),
    )
    for kind in (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
)
