"""Activation and pseudo-gradient covariances of a layer, as sums that can be merged.

A = E[Σ_s a_s a_sᵀ] and G = E[Σ_s g_s g_sᵀ], expectations over examples, g with labels drawn
from the model. Products of one batch are exact enough in the working precision, their running
sum over a large data set is not: batches are merged in float64, in place, because for a wide
layer a copy of the sum takes longer than the product.

A side is kept as its diagonal alone where one-hot inputs make it diagonal (an embedding's A),
and where it is wider than `MAXIMUM_FACTOR` (a language model's output layer). Its eigenbasis
is then the identity: exact for one-hot inputs; for a wide side the covariance is never
formed, and the curvature is approximated in that side's own coordinates.

A weight that an embedding shares with a linear output layer meets tokens and activations on
both sides. The sums are then those of its whole gradient, Σ ∇Wᵀ∇W and Σ ∇W∇Wᵀ with sampled
labels, of which only the eigenvectors matter to EK-FAC (as in Shampoo, Gupta et al. 2018).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sourcetrace.core.gradients import tied_gradient
from sourcetrace.core.layers import Layer
from sourcetrace.core.positions import Positions, TiedPositions

MAXIMUM_FACTOR = 16384
"""The widest side whose covariance is formed: 2 GiB in float64."""

_WHOLE = 256
"""Width up to which a symmetric product is taken as any other; torch has none of its own."""

_MANY = 1024
"""Rows below which moving the parts of the result takes longer than computing all of it."""

_HALVINGS = 2
"""They save 3/8 of the multiplications; more would save an eighth at most, in small products."""

_ROWS = 256
"""Of a sum, added to at once: their copy in float64 stays in the cache."""


@dataclass(frozen=True)
class CovarianceSums:
    """Sums over examples, a block a group.

    Attributes:
        activation: Σ a aᵀ, [groups, D_in, D_in], or its diagonal, [groups, D_in].
        pseudo_gradient: Σ g gᵀ, [groups, D_out, D_out], or its diagonal, [groups, D_out].
        examples: How many were added.
    """

    activation: Tensor
    pseudo_gradient: Tensor
    examples: int

    @classmethod
    def of(
        cls, layer: Layer, inputs: Positions, sampled_output_gradients: Positions
    ) -> "CovarianceSums":
        """Return the sums over a batch, in its own precision.

        Args:
            layer: The layer.
            inputs: [N, groups, S, D_in], or the indices of one-hot inputs, [N, S].
            sampled_output_gradients: [N, groups, S, D_out].
        """
        count = len(inputs)
        if isinstance(inputs, TiedPositions) or isinstance(sampled_output_gradients, TiedPositions):
            gradient = tied_gradient(inputs, sampled_output_gradients)
            # The rows of ∇W lie in the space of the inputs, its columns in the outputs'.
            inputs, sampled_output_gradients = gradient, gradient.mT
        elif not inputs.is_floating_point():
            without = (inputs < 0)[:, None, :, None]
            sampled_output_gradients = sampled_output_gradients.masked_fill(without, 0)
        return cls(
            _summed(inputs, width=layer.inputs, dtype=sampled_output_gradients.dtype),
            _summed(
                sampled_output_gradients, width=layer.outputs, dtype=sampled_output_gradients.dtype
            ),
            count,
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


def _summed(values: Tensor, *, width: int, dtype: torch.dtype) -> Tensor:
    """Return Σ over examples and positions of x xᵀ, [groups, D, D], or its diagonal [groups, D].

    Args:
        values: [N, groups, S, D], or the indices of one-hot x, [N, S], -1 for none.
        width: D.
        dtype: Of the diagonal of one-hot x.
    """
    if not values.is_floating_point():
        found = values[values >= 0].flatten()
        return torch.bincount(found, minlength=width).to(dtype).unsqueeze(0)
    if width > MAXIMUM_FACTOR:
        return values.square().sum((0, 2))
    return _gram(values.transpose(0, 1).flatten(1, 2))


def _gram(rows: Tensor, *, halvings: int = _HALVINGS) -> Tensor:
    """Return XᵀX of [groups, M, D], without computing what symmetry tells."""
    count, width = rows.shape[-2:]
    if width <= _WHOLE or count < _MANY or not halvings:
        return rows.mT @ rows
    first, second = rows[..., : width // 2], rows[..., width // 2 :]
    corner = first.mT @ second
    return torch.cat(
        [
            torch.cat([_gram(first, halvings=halvings - 1), corner], dim=-1),
            torch.cat([corner.mT, _gram(second, halvings=halvings - 1)], dim=-1),
        ],
        dim=-2,
    )


def is_diagonal(covariance: Tensor) -> bool:
    """Return whether only the diagonal is kept, [groups, D]."""
    return covariance.ndim == 2  # noqa: PLR2004


def mean_covariances(sums: Sequence[CovarianceSums]) -> tuple[Tensor, Tensor]:
    """Return A and G averaged over the checkpoints of a segment, each checkpoint alike."""
    computed = [one.compute() for one in sums]
    activation = torch.stack([a for a, _ in computed]).mean(0)
    pseudo_gradient = torch.stack([g for _, g in computed]).mean(0)
    return activation, pseudo_gradient


LayerCovariances = Mapping[str, CovarianceSums]
"""The sums of every attributed layer, by layer name."""


def merge(total: LayerCovariances | None, more: LayerCovariances) -> LayerCovariances:
    """Return two sets of sums added up, in float64.

    Args:
        total: An earlier result of this function, which is added to in place; None for nothing.
        more: What is added; it stays as it is.
    """
    if total is None:
        return {
            name: CovarianceSums(
                sums.activation.to(torch.float64, copy=True),
                sums.pseudo_gradient.to(torch.float64, copy=True),
                sums.examples,
            )
            for name, sums in more.items()
        }
    return {
        name: CovarianceSums(
            _add(total[name].activation, sums.activation),
            _add(total[name].pseudo_gradient, sums.pseudo_gradient),
            total[name].examples + sums.examples,
        )
        for name, sums in more.items()
    }


def _add(total: Tensor, more: Tensor) -> Tensor:
    """Add to `total` in place; some rows at a time, because torch converts a copy first."""
    for part, one in zip(
        torch.split(total, _ROWS, dim=-2), torch.split(more, _ROWS, dim=-2), strict=True
    ):
        part.add_(one)
    return total
