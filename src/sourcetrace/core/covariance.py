"""Activation and pseudo-gradient covariances of a layer, as sums that can be merged.

A = E[Σ_s a_s a_sᵀ] and G = E[Σ_s g_s g_sᵀ], expectations over examples, g with labels drawn
from the model. Sums are kept in float64: products of one batch are exact enough in the
working precision, their running sum over a large data set is not.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sourcetrace.core.layers import Layer


@dataclass(frozen=True)
class CovarianceSums:
    """Sums over examples, a block a group.

    Attributes:
        activation: Σ a aᵀ, [groups, D_in, D_in].
        pseudo_gradient: Σ g gᵀ, [groups, D_out, D_out].
        examples: How many were added.
    """

    activation: Tensor
    pseudo_gradient: Tensor
    examples: int

    @classmethod
    def zeros(cls, layer: Layer, device: torch.device) -> "CovarianceSums":
        """Return the sums over no example."""
        groups, outputs, inputs = layer.shape

        def zeros(size: int) -> Tensor:
            return torch.zeros(groups, size, size, dtype=torch.float64, device=device)

        return cls(zeros(inputs), zeros(outputs), 0)

    def update(self, inputs: Tensor, sampled_output_gradients: Tensor) -> "CovarianceSums":
        """Add a batch: inputs [N, groups, S, D_in], gradients [N, groups, S, D_out]."""
        return replace(
            self,
            activation=self.activation + _second_moment(inputs),
            pseudo_gradient=self.pseudo_gradient + _second_moment(sampled_output_gradients),
            examples=self.examples + inputs.shape[0],
        )

    def to(self, device: torch.device) -> "CovarianceSums":
        """Return the sums on another device."""
        return replace(
            self,
            activation=self.activation.to(device),
            pseudo_gradient=self.pseudo_gradient.to(device),
        )

    def compute(self) -> tuple[Tensor, Tensor]:
        """Return A and G, divided once by the number of examples."""
        return self.activation / self.examples, self.pseudo_gradient / self.examples


def _second_moment(values: Tensor) -> Tensor:
    """Return Σ over examples and positions of x xᵀ: [N, groups, S, D] -> [groups, D, D]."""
    rows = values.transpose(0, 1).flatten(1, 2)
    return (rows.mT @ rows).double()


def mean_covariances(sums: Sequence[CovarianceSums]) -> tuple[Tensor, Tensor]:
    """Return A and G averaged over the checkpoints of a segment, each checkpoint alike."""
    computed = [one.compute() for one in sums]
    activation = torch.stack([a for a, _ in computed]).mean(0)
    pseudo_gradient = torch.stack([g for _, g in computed]).mean(0)
    return activation, pseudo_gradient


LayerCovariances = Mapping[str, CovarianceSums]
"""The sums of every attributed layer, by layer name."""


def merge(total: LayerCovariances | None, more: LayerCovariances) -> LayerCovariances:
    """Add two sets of sums; `total` may be None for nothing yet."""
    if total is None:
        return more
    return {
        name: CovarianceSums(
            total[name].activation + sums.activation,
            total[name].pseudo_gradient + sums.pseudo_gradient,
            total[name].examples + sums.examples,
        )
        for name, sums in more.items()
    }
