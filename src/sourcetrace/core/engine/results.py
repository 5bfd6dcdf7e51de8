"""What passes give, and how it is kept, joined and chosen from."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from sourcetrace.core.curvature.covariance import LayerTerms
from sourcetrace.core.gradients.per_example import LayerGradient, concatenate, from_tensors


class BlockCache(Protocol):
    """Where blocks of gradients may be kept between the stages."""

    @property
    def keeps(self) -> bool:
        """Whether anything that is put can come back."""

    def get(self, key: str) -> Mapping[str, Tensor] | None:
        """Return the tensors under `key`, or None if they are not kept."""

    def put(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep the tensors, or not, as the budget says."""


@dataclass(frozen=True)
class BlockSignals:
    """What one forward and backward pass tells of each of its n examples.

    Attributes:
        examples: Their numbers, [n].
        loss, measurement: One value each, [n].
        gradient_norm: Of the loss, [n]; None where no backward pass was run.
        described: What the task adds, such as the predicted label; name -> n values.
        finite: Whether all this is, and the gradients of sampled labels are, [n].
        sketch: Of what the layers see, [n, WIDTH]; None where it was not asked for, or none has
            features.
    """

    examples: Tensor
    loss: Tensor
    measurement: Tensor
    gradient_norm: Tensor | None
    described: Mapping[str, Sequence[Any]]
    finite: Tensor
    sketch: Tensor | None = None


@dataclass(frozen=True)
class TrainingPasses:
    """What the passes of n training examples gave.

    Attributes:
        signals: A row an example.
        gradients: Of the given labels' loss, by layer.
        sampled: Of the sampled labels' loss, by layer, n rows, or, of a block, the stage's own
            examples; none if they were not asked for.
        covariances: What the stage's own examples add, by layer.
    """

    signals: BlockSignals
    gradients: Mapping[str, LayerGradient]
    sampled: Mapping[str, LayerGradient]
    covariances: LayerTerms

    def tensors(self) -> dict[str, Tensor]:
        """Return both kinds of gradients as one set of tensors, kind/layer/part."""
        tensors: dict[str, Tensor] = {}
        for kind, layers in (("given", self.gradients), ("sampled", self.sampled)):
            for name, layer in layers.items():
                for part, tensor in layer.tensors().items():
                    # Both kinds share the layer inputs; they are kept once.
                    owner = "both" if part == "inputs" else kind
                    tensors[f"{owner}/{name}/{part}"] = tensor
        return tensors

    @staticmethod
    def kept(
        tensors: Mapping[str, Tensor], kind: str, device: torch.device, names: Collection[str]
    ) -> dict[str, LayerGradient]:
        """Return layers' gradients, `given` or `sampled`, out of what `tensors` returned."""
        parts: dict[str, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            owner, rest = key.split("/", 1)
            if owner in (kind, "both"):
                name, part = rest.rsplit("/", 1)
                if name not in names:
                    continue
                parts.setdefault(name, {})[part] = tensor.to(device)
        return {name: from_tensors(layer) for name, layer in parts.items()}

    @property
    def bytes_per_example(self) -> int:
        """What a cache holds of one example at one point."""
        return sum(
            (1 if part == "inputs" else 2) * tensor[0].numel() * tensor.element_size()
            for layer in self.gradients.values()
            for part, tensor in layer.tensors().items()
        )


QueryPasses = tuple[dict[str, LayerGradient], dict[str, LayerGradient]]
"""Gradients of the measurement, and of the training loss."""


def join_parts(parts: Sequence[Any]) -> Any:
    """Join results of consecutive examples, whatever they are made of."""
    first: Any = parts[0]
    if isinstance(first, Tensor):
        return torch.cat(list(parts))
    if isinstance(first, LayerGradient):
        return concatenate([{"": part} for part in parts])[""]
    if isinstance(first, Mapping):
        return {key: join_parts([part[key] for part in parts]) for key in first}
    if is_dataclass(first):
        columns = ([getattr(one, field.name) for one in parts] for field in fields(first))
        return type(parts[0])(*map(join_parts, columns))
    if isinstance(first, tuple) and isinstance(first[0], Mapping):  # gradients of both kinds
        return tuple(map(join_parts, zip(*parts, strict=True)))
    return None if first is None else [value for part in parts for value in part]


def own_rows(gradients: Mapping[str, LayerGradient], own: Tensor) -> dict[str, LayerGradient]:
    """Return those that `own` is true of, by layer."""
    if bool(own.all()):  # the usual case; indexing would copy
        return dict(gradients)
    return {name: layer.rows(own) for name, layer in gradients.items()}
