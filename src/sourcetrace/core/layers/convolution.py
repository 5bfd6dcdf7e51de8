"""Convolutions of one to three dimensions: an input position is an unfolded patch.

Source: Grosse & Martens 2016, arXiv 1602.01407 (a convolution as a linear layer on patches).
"""

from typing import Any

import torch.nn.functional as F  # noqa: N812, the name everybody reads
from torch import Tensor, nn

from sourcetrace.core.layers.types import LayerType


def _padding(module: Any) -> list[int]:
    """Return the padding as `F.pad` wants it: the last dimension first, before and after."""
    if module.padding == "valid":
        return []
    if module.padding == "same":
        extents = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
        # torch puts the odd row or column at the end.
        pairs = [(extent // 2, extent - extent // 2) for extent in extents]
    else:
        pairs = [(int(size), int(size)) for size in module.padding]
    return [side for pair in reversed(pairs) for side in pair]


def _patches(module: Any, inputs: Tensor) -> Tensor:
    """Return what the kernel meets, [N, groups, S, C_in / groups · kernel]."""
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    padding = _padding(module)
    values = F.pad(inputs, padding, mode=mode) if any(padding) else inputs
    space = len(module.kernel_size)
    for dimension in range(space):
        kernel, dilation = module.kernel_size[dimension], module.dilation[dimension]
        windows = values.unfold(
            2 + dimension, dilation * (kernel - 1) + 1, module.stride[dimension]
        )
        values = windows[..., ::dilation]
    # [N, C_in, out…, kernel…], channels slowest, so groups are contiguous. All of it is a view
    # until the one copy at the end: patches are the largest tensors of a convolution.
    examples, groups = inputs.shape[0], module.groups
    grouped = values.unflatten(1, (groups, -1))
    out = range(3, 3 + space)
    patches = grouped.permute(0, 1, *out, 2, *range(3 + space, 3 + 2 * space))
    return patches.reshape(examples, groups, grouped.shape[3 : 3 + space].numel(), -1)


def _output_channels(module: Any, gradients: Tensor) -> Tensor:
    """Split channels into groups: [N, groups · D_out, …] -> [N, groups, S, D_out]."""
    examples, channels = gradients.shape[:2]
    groups = module.groups
    return gradients.reshape(examples, groups, channels // groups, -1).transpose(2, 3)


def _groups(module: Any) -> int:
    return int(module.groups)


CONVOLUTIONS = tuple(
    LayerType(kind, _patches, _output_channels, _groups)
    for kind in (nn.Conv1d, nn.Conv2d, nn.Conv3d)
)
