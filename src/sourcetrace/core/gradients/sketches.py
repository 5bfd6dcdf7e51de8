"""A short vector of what a model's layers see in an example, by which near-duplicates are found.

Every layer's input, averaged over positions and of length 1, is multiplied by a matrix of its own
of independent normal numbers, and the products are added up: the inner product of two sketches is
that of the layers' inputs side by side, but for an error of about 1/√`WIDTH`. Early layers tell
contents apart that late ones, which know the classes, throw together.

Source: Johnson and Lindenstrauss 1984.
"""

import math
import zlib
from collections.abc import Mapping, Sequence
from functools import cache

import torch
import torch.nn.functional as F  # noqa: N812, the name everybody reads
from torch import Tensor

from sourcetrace.core.gradients.per_example import Positions
from sourcetrace.core.gradients.tied import TiedPositions
from sourcetrace.core.layers.layer import Layer

WIDTH = 32


def sketches(inputs: Mapping[str, Positions], layers: Sequence[Layer]) -> Tensor | None:
    """Return the sketch of every example, [N, WIDTH]; None if no layer has inputs of features.

    Args:
        inputs: Layer -> its inputs, [N, groups, S, D_in]; indices count as none.
        layers: The layers.
    """
    total: Tensor | None = None
    for layer in layers:
        # A bias alone has no inputs; those of layers that run alone are of other positions.
        if layer.weight is None or layer.alone:
            continue
        values = inputs[layer.name]
        values = values.linear if isinstance(values, TiedPositions) else values
        if not values.is_floating_point():
            continue
        features = values if layer.bias is None else values[..., :-1]
        if not features.shape[2]:
            continue
        mean = F.normalize(features.mean(2).flatten(1).detach(), dim=1)
        part: Tensor = mean @ _projection(layer.name, mean.shape[1]).to(mean)
        total = part if total is None else total + part
    return total


@cache
def _projection(name: str, features: int) -> Tensor:
    """Return a layer's matrix, [features, WIDTH], by its name alone."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    return torch.randn(features, WIDTH, generator=generator) / math.sqrt(WIDTH)
