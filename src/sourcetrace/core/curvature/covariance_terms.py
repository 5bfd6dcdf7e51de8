"""What a batch adds to the covariances of a layer: values whose products are not taken yet.

Few rows of a wide side are quickly multiplied, but the sum that they are added to is as wide as
ever. They wait until there are as many rows as columns (`core.curvature.covariance`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from sourcetrace.core.gradients.per_example import tied_gradient
from sourcetrace.core.gradients.positions import Positions, TiedPositions
from sourcetrace.core.layers.kinds.pixels import Pixels
from sourcetrace.core.layers.layer import Layer

MAXIMUM_FACTOR = 16384
"""The widest side whose covariance is formed: 2 GiB in float64."""

_WHOLE = 256
"""Width up to which a symmetric product is taken as any other; torch has none of its own."""

_MANY = 1024
"""Rows below which moving the parts of the result takes longer than computing all of it."""

_HALVINGS = 2
"""They save 3/8 of the multiplications; more would save an eighth at most, in small products."""


class SumLayout(Protocol):
    """How sums are laid out; equal ones may be added up."""

    def expanded(self, sums: Tensor) -> Tensor:
        """Return Σ x xᵀ, [groups, D, D], or its diagonal, [groups, D]."""


class SideTerms(Protocol):
    """Terms of Σ x xᵀ over the positions of one side, or of its diagonal."""

    @property
    def layout(self) -> SumLayout:
        """Of their sums; terms of equal layouts can be joined."""

    @property
    def rows(self) -> int:
        """Positions."""

    @property
    def width(self) -> int:
        """D; 0 where nothing is saved by waiting for more rows."""

    @classmethod
    def joined(cls, parts: Sequence[Any]) -> "SideTerms":
        """Return several as one."""

    def owned(self) -> "SideTerms":
        """Return terms that nobody else writes to or holds."""

    def halves(self) -> Sequence["SideTerms"]:
        """Return two with half of the rows each."""

    def summed(self) -> Tensor:
        """Return their sums, in their precision."""


@dataclass(frozen=True)
class _Plain:
    """Sums that are what they are for.

    Attributes:
        kind: Of the terms.
        groups, width: Of the sums.
    """

    kind: str
    groups: int
    width: int

    def expanded(self, sums: Tensor) -> Tensor:
        """Return them."""
        return sums


@dataclass(frozen=True)
class _Rows:
    """Positions as they are, [groups, M, D]."""

    values: Tensor

    @property
    def layout(self) -> _Plain:
        """Groups and D."""
        return _Plain("rows", self.values.shape[0], self.values.shape[2])

    @property
    def rows(self) -> int:
        """M."""
        return self.values.shape[1]

    @property
    def width(self) -> int:
        """D, or 0 where a row is added to a diagonal."""
        return 0 if self._is_wide else self.values.shape[2]

    @classmethod
    def joined(cls, parts: Sequence["_Rows"]) -> "_Rows":
        """Return all rows."""
        return cls(torch.cat([one.values for one in parts], dim=1))

    def owned(self) -> "_Rows":
        """Return a copy."""
        return _Rows(self.values.clone())

    def halves(self) -> list["_Rows"]:
        """Return the first rows and the last."""
        return [_Rows(one) for one in self.values.tensor_split(2, dim=1)]

    def summed(self) -> Tensor:
        """Return Σ x xᵀ; of too wide a side the diagonal."""
        return self.values.square().sum(1) if self._is_wide else _gram(self.values)

    @property
    def _is_wide(self) -> bool:
        return self.values.shape[2] > MAXIMUM_FACTOR


@dataclass(frozen=True)
class _Diagonal:
    """The diagonal of a sum that has nothing beside it, [groups, D]."""

    values: Tensor
    rows: int = 0
    width: int = 0

    @property
    def layout(self) -> _Plain:
        """Groups and D."""
        return _Plain("diagonal", *self.values.shape)

    @classmethod
    def joined(cls, parts: Sequence["_Diagonal"]) -> "_Diagonal":
        """Return their sum."""
        return cls(torch.stack([one.values for one in parts]).sum(0))

    def owned(self) -> "_Diagonal":
        """Return it: it is a sum already."""
        return self

    def halves(self) -> list["_Diagonal"]:
        """Return it alone: it is a sum already."""
        return [self]

    def summed(self) -> Tensor:
        """Return it."""
        return self.values


@dataclass(frozen=True)
class CovarianceTerms:
    """What a batch adds to A and G of a layer.

    Attributes:
        activation: Of Σ a aᵀ.
        pseudo_gradient: Of Σ g gᵀ.
        examples: How many examples the batch has.
    """

    activation: SideTerms
    pseudo_gradient: SideTerms
    examples: int

    @classmethod
    def of(
        cls, layer: Layer, inputs: Positions | Pixels, sampled_output_gradients: Positions
    ) -> "CovarianceTerms":
        """Return the terms of a batch.

        Args:
            layer: The layer.
            inputs: [N, groups, S, D_in], the indices of one-hot inputs, [N, S], or a convolution's
                pixels.
            sampled_output_gradients: [N, groups, S, D_out].
        """
        count = len(inputs)
        if isinstance(inputs, Pixels):
            return cls(inputs, _rows_of(sampled_output_gradients), count)
        if isinstance(inputs, TiedPositions) or isinstance(sampled_output_gradients, TiedPositions):
            gradient = tied_gradient(inputs, sampled_output_gradients)
            # The rows of ∇W lie in the space of the inputs, its columns in the outputs'.
            return cls(_rows_of(gradient), _rows_of(gradient.mT), count)
        if inputs.is_floating_point():
            return cls(_rows_of(inputs), _rows_of(sampled_output_gradients), count)
        without = (inputs < 0)[:, None, :, None]
        gradients = sampled_output_gradients.masked_fill(without, 0)
        found = torch.bincount(inputs[inputs >= 0].flatten(), minlength=layer.inputs)
        return cls(_Diagonal(found.to(gradients.dtype).unsqueeze(0)), _rows_of(gradients), count)


def _rows_of(values: Positions) -> _Rows:
    """Return [N, groups, S, D] as [groups, N · S, D]."""
    if isinstance(values, TiedPositions):
        raise TypeError("Positions of a shared weight have no rows of their own.")
    return _Rows(values.transpose(0, 1).flatten(1, 2))


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
