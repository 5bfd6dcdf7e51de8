"""Bilinear layers, y_o = x₁ᵀ W_o x₂ + b_o: linear layers whose input is the product x₁ ⊗ x₂."""

from typing import Any

import torch
from torch import Tensor, nn

from sourcetrace.core.layers.kinds.linear import rows
from sourcetrace.core.layers.kinds.types import LayerType


def _both(
    _: nn.Module, __: int | None, output: Tensor, input1: Tensor, input2: Tensor
) -> tuple[Tensor, ...]:
    # Side by side: their product is as wide as the weight.
    return torch.cat([input1, input2], dim=-1), output, output


def _products(module: Any, values: Tensor) -> Tensor:
    """Lay out [N, …, D_1 + D_2] as [N, 1, S, D_1 · D_2]."""
    first, second = rows(module, values).tensor_split([module.in1_features], dim=-1)
    return torch.einsum("ngsi,ngsj->ngsij", first, second).flatten(-2)


BILINEAR = LayerType(nn.Bilinear, _products, rows, feature_dimensions=lambda _: 1, call=_both)
