"""Convolutions of one to three dimensions: an input position is an unfolded patch.

Its channels lie together, kernel position after kernel position. Patches are the largest tensors
of a convolution, and copying them in whole runs of channels takes a fifth of the time.

Source: Grosse & Martens 2016, arXiv 1602.01407 (a convolution as a linear layer on patches).
"""

from operator import attrgetter
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812, the name everybody reads
from torch import Tensor, nn

from sourcetrace.core.layers.kinds.pixels import PatchLayout, Pixels
from sourcetrace.core.layers.kinds.types import LayerType


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


def _padded(module: Any, inputs: Tensor) -> Tensor:
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    padding = _padding(module)
    return F.pad(inputs, padding, mode=mode) if any(padding) else inputs


def _pixels(module: Any, inputs: Tensor) -> Pixels | None:
    """Return the input as the kernel meets it; None where it moves in larger steps than 1."""
    if any(stride != 1 for stride in module.stride):
        return None
    space = len(module.kernel_size)
    if module.padding_mode == "zeros":
        sides = _padding(module) or [0] * 2 * space
    else:
        inputs, sides = _padded(module, inputs), [0] * 2 * space
    padding = list(zip(sides[::2], sides[1::2], strict=True))[::-1]
    kernel = list(zip(module.kernel_size, module.dilation, padding, strict=True))
    layout = PatchLayout(
        channels=inputs.shape[1] // module.groups,
        space=tuple(inputs.shape[2:]),
        offsets=tuple(
            tuple(k * step - before for k in range(size)) for size, step, (before, _) in kernel
        ),
        outputs=tuple(
            extent + before + after - step * (size - 1)
            for extent, (size, step, (before, after)) in zip(inputs.shape[2:], kernel, strict=True)
        ),
    )
    grouped = torch.unflatten(inputs, 1, (module.groups, -1))
    return Pixels(grouped.movedim(2, -1), layout)


def _patches(module: Any, inputs: Tensor) -> Tensor:
    """Return what the kernel meets, [N, groups, S, kernel · C_in / groups]."""
    return unfolded(module, _padded(module, inputs))


def unfolded(module: Any, values: Tensor) -> Tensor:
    """Return `patches` of values that are padded."""
    values = values.movedim(1, -1).contiguous().movedim(-1, 1)
    space = len(module.kernel_size)
    for dimension in range(space):
        kernel, dilation = module.kernel_size[dimension], module.dilation[dimension]
        windows = values.unfold(
            2 + dimension, dilation * (kernel - 1) + 1, module.stride[dimension]
        )
        values = windows[..., ::dilation]
    # [N, C_in, out…, kernel…], a view until the last line.
    examples, groups = values.shape[0], module.groups
    grouped = torch.unflatten(values, 1, (groups, -1))
    kernel = range(3 + space, 3 + 2 * space)
    laid_out = grouped.permute(0, 1, *range(3, 3 + space), *kernel, 2)
    return laid_out.reshape(examples, groups, grouped.shape[3 : 3 + space].numel(), -1)


def pixels_by_group(module: Any, values: Tensor) -> Tensor:
    """Split channels into groups: [N, groups · D, …] -> [N, groups, S, D]."""
    examples, channels = values.shape[:2]
    groups = module.groups
    return values.reshape(examples, groups, channels // groups, -1).transpose(2, 3)


CONVOLUTIONS = tuple(
    LayerType(kind, _patches, pixels_by_group, attrgetter("groups"), _pixels, channels_last=True)
    for kind in (nn.Conv1d, nn.Conv2d, nn.Conv3d)
)
