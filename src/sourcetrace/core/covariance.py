"""Activation and pseudo-gradient covariances of a layer, as sums that can be merged.

A = E[Σ_s a_s a_sᵀ] and G = E[Σ_s g_s g_sᵀ], expectations over examples, g with labels drawn
from the model. Sums are kept in float64: products of one batch are exact enough in the
working precision, their running sum over a large data set is not.

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
    def zeros(cls, layer: Layer, device: torch.device) -> "CovarianceSums":
        """Return the sums over no example."""
        groups, outputs, inputs = layer.shape

        def zeros(size: int, *, diagonal: bool) -> Tensor:
            shape = (groups, size) if diagonal else (groups, size, size)
            return torch.zeros(shape, dtype=torch.float64, device=device)

        return cls(
            zeros(inputs, diagonal=layer.indexed or inputs > MAXIMUM_FACTOR),
            zeros(outputs, diagonal=outputs > MAXIMUM_FACTOR),
            0,
        )

    def update(self, inputs: Positions, sampled_output_gradients: Positions) -> "CovarianceSums":
        """Add a batch: inputs [N, groups, S, D_in], gradients [N, groups, S, D_out]."""
        count = len(inputs)
        if isinstance(inputs, TiedPositions) or isinstance(sampled_output_gradients, TiedPositions):
            gradient = tied_gradient(inputs, sampled_output_gradients)
            # The rows of ∇W lie in the space of the inputs, its columns in the outputs'.
            inputs, sampled_output_gradients = gradient, gradient.mT
        elif not inputs.is_floating_point():
            without = (inputs < 0)[:, None, :, None]
            sampled_output_gradients = sampled_output_gradients.masked_fill(without, 0)
        return replace(
            self,
            activation=_added(self.activation, inputs, first=not self.examples),
            pseudo_gradient=_added(
                self.pseudo_gradient, sampled_output_gradients, first=not self.examples
            ),
            examples=self.examples + count,
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


def _added(total: Tensor, values: Tensor, *, first: bool) -> Tensor:
    """Add Σ over examples and positions of x xᵀ to [groups, D, D] or its diagonal [groups, D].

    Args:
        total: The sum so far.
        values: [N, groups, S, D], or the indices of one-hot x, [N, S], -1 for none.
        first: Whether the sum so far is 0, which then need not be read.
    """
    if not values.is_floating_point():
        found = values[values >= 0].flatten()
        return total + torch.bincount(found, minlength=total.shape[1]).to(total.dtype)
    if is_diagonal(total):
        return total + values.square().sum((0, 2)).double()
    rows = values.transpose(0, 1).flatten(1, 2)
    product = _gram(rows)
    return product.double() if first else total + product


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
