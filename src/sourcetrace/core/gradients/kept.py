"""Blocks of gradients as a cache keeps them: tensors by name."""

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from sourcetrace.core.gradients.per_example import LayerGradient, from_tensors
from sourcetrace.core.layers.coverage import Coverage


class Cache(Protocol):
    """Where blocks of gradients may be kept between the stages."""

    @property
    def keeps(self) -> bool:
        """Whether anything that is put can come back."""

    def get(self, key: str) -> Mapping[str, Tensor] | None:
        """Return the tensors under `key`, or None if they are not kept."""

    def put(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep the tensors, or not, as the budget says."""


def to_tensors(
    gradients: Mapping[str, LayerGradient], sampled: Mapping[str, LayerGradient]
) -> dict[str, Tensor]:
    """Return both kinds of gradients of a block as one set of tensors."""
    tensors: dict[str, Tensor] = {}
    for kind, layers in (("given", gradients), ("sampled", sampled)):
        for name, layer in layers.items():
            for part, tensor in layer.tensors().items():
                # Both kinds share the layer inputs; they are kept once.
                owner = "both" if part == "inputs" else kind
                tensors[f"{owner}/{name}/{part}"] = tensor
    return tensors


def of_kind(
    tensors: Mapping[str, Tensor], kind: str, device: torch.device
) -> dict[str, LayerGradient]:
    """Return one kind of gradients out of what `to_tensors` made."""
    parts: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        owner, rest = key.split("/", 1)
        if owner in (kind, "both"):
            name, part = rest.rsplit("/", 1)
            parts.setdefault(name, {})[part] = tensor.to(device)
    return {name: from_tensors(layer) for name, layer in parts.items()}


def bytes_per_example(coverage: Coverage, gradients: Mapping[str, LayerGradient]) -> int:
    """Return what the cache holds of one example at one point, from a block's gradients."""
    total = 0
    for layer in coverage.layers:
        for part, tensor in gradients[layer.name].tensors().items():
            copies = 1 if part == "inputs" else 2
            total += copies * tensor[0].numel() * tensor.element_size()
    return total
