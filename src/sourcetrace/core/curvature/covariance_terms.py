"""What a batch adds to the covariances of a layer: values whose products are not taken yet.

Few rows of a wide side are quickly multiplied, but the sum that they are added to is as wide as
ever. They wait until there are as many rows as columns (`core.curvature.covariance`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from sourcetrace.core.gradients.per_example import Positions, per_example_gradient
from sourcetrace.core.gradients.tied import TiedGradient, TiedPositions
from sourcetrace.core.layers.kinds.pixels import PatchLayout, Pixels
from sourcetrace.core.layers.layer import Layer
from sourcetrace.core.machine.products import batch_product

MAXIMUM_FACTOR = 16384
"""The widest side whose covariance is formed: 2 GiB in float64."""

MAXIMUM_BARE = 1024
"""The largest bare parameter whose covariance is formed; there is one an entry, not one a row."""

_WHOLE = 256
"""Width up to which a symmetric product is taken as any other; torch has none of its own."""

_MANY = 1024
"""Rows below which moving the parts of the result takes longer than computing all of it."""

_FEW = 0.25
"""Share of a convolution's positions up to which taking them out again costs less than patches."""

_ROUNDINGS = 16
"""How many of them a gradient of 0 may be made of, in units of the example's largest."""

_HALVINGS = 2
"""They save 3/8 of the multiplications; more would save an eighth at most, in small products."""


@dataclass(frozen=True)
class _RowLayout:
    """How sums of rows are laid out; equal ones may be added up."""

    kind: Literal["rows", "left out", "diagonal", "matrix"]
    groups: int
    width: int

    def expanded(self, sums: Tensor) -> Tensor:
        """Return what they add to the side: less than nothing, if they are of rows left out."""
        return -sums if self.kind == "left out" else sums


@dataclass(frozen=True)
class _Rows:
    """Terms of Σ x xᵀ over the positions of one side, or of its diagonal.

    Attributes:
        values: x, [groups, M, D].
        summed_up: Whether they are terms of the sum already: of its diagonal, the only ones that
            are kept, or of the whole, [groups, M, D, D].
        left_out: Whether other terms have them too many.
    """

    values: Tensor
    summed_up: bool = False
    left_out: bool = False

    @property
    def layout(self) -> _RowLayout:
        """Of their sums; terms of equal layouts can be joined."""
        groups, _, width, *rest = self.values.shape
        if self.summed_up:
            return _RowLayout("matrix" if rest else "diagonal", groups, width)
        return _RowLayout("left out" if self.left_out else "rows", groups, width)

    @property
    def rows(self) -> int:
        """M."""
        return self.values.shape[1]

    @property
    def width(self) -> int:
        """D, or 0 where nothing is saved by waiting for more rows."""
        return 0 if self.summed_up or self._is_wide else self.values.shape[2]

    def joined(self, others: Sequence[Any]) -> "_Rows":
        """Return these rows and more of the same layout."""
        return replace(self, values=torch.cat([one.values for one in (self, *others)], dim=1))

    def owned(self) -> "_Rows":
        """Return rows that nobody else writes to or holds."""
        return replace(self, values=self.values.clone())

    def halves(self) -> list["_Rows"]:
        """Return the first rows and the last."""
        return [replace(self, values=one) for one in self.values.tensor_split(2, dim=1)]

    def summed(self) -> Tensor:
        """Return Σ x xᵀ in their precision; of too wide a side the diagonal."""
        if self.summed_up:
            return self.values.sum(1)
        return self.values.square().sum(1) if self._is_wide else _gram(self.values)

    @property
    def _is_wide(self) -> bool:
        return self.values.shape[2] > MAXIMUM_FACTOR


SideTerms = _Rows | Pixels
"""What a batch adds to the covariance of one side."""

SumLayout = _RowLayout | PatchLayout
"""How such terms' sums are laid out."""


@dataclass(frozen=True)
class CovarianceTerms:
    """What a batch adds to A and G of a layer.

    Attributes:
        activation: Of Σ a aᵀ over the positions whose pseudo-gradient is not 0.
        pseudo_gradient: Of Σ g gᵀ.
        examples: How many examples the batch has.
    """

    activation: Sequence[SideTerms]
    pseudo_gradient: SideTerms
    examples: int

    @classmethod
    def of(
        cls,
        layer: Layer,
        inputs: Positions,
        sampled_output_gradients: Positions,
        *,
        pixels: Pixels | None = None,
    ) -> "CovarianceTerms":
        """Return the terms of a batch.

        Args:
            layer: The layer.
            inputs: [N, groups, S, D_in], or the indices of one-hot inputs, [N, S].
            sampled_output_gradients: [N, groups, S, D_out].
            pixels: What a convolution's inputs are made of, if its covariance is cheaper so.
        """
        count = len(inputs)
        if isinstance(inputs, TiedPositions):
            return cls(*_tied_terms(inputs, sampled_output_gradients, layer), count)
        if isinstance(sampled_output_gradients, TiedPositions):
            raise TypeError("Both sides of a shared weight are TiedPositions.")
        if layer.bare and layer.outputs > MAXIMUM_BARE:
            squares = replace(_rows_of(sampled_output_gradients.square()), summed_up=True)
            return cls([_rows_of(inputs)], squares, count)
        if inputs.is_floating_point():
            activation = _counted_terms(inputs, _counted(sampled_output_gradients), pixels)
            return cls(activation, _rows_of(sampled_output_gradients), count)
        without = (inputs < 0)[:, None, :, None]
        gradients = sampled_output_gradients.masked_fill(without, 0)
        found = torch.bincount(inputs[_counted(gradients)[:, 0]], minlength=layer.inputs)
        frequencies = _Rows(found.to(gradients.dtype)[None, None], summed_up=True)
        return cls([frequencies], _rows_of(gradients), count)


def _tied_terms(
    inputs: TiedPositions, output_gradients: Positions, layer: Layer
) -> tuple[list[SideTerms], SideTerms]:
    """Return the terms of Σ ∇Wᵀ∇W and Σ ∇W∇Wᵀ: rows of ∇W lie in the space of the inputs."""
    gradient = per_example_gradient(inputs, output_gradients, width=layer.inputs)
    if isinstance(gradient, TiedGradient):
        first, second = gradient.second_moments(diagonal=layer.outputs > MAXIMUM_FACTOR)
        return [_Rows(first.unsqueeze(1), summed_up=True)], _Rows(
            second.unsqueeze(1), summed_up=True
        )
    dense = gradient.dense()
    return [_rows_of(dense)], _rows_of(dense.mT)


def _counted(output_gradients: Tensor) -> Tensor:
    """Return which positions [N, groups, S] have a gradient; `any` would take six times as long."""
    sizes = output_gradients.abs().amax(-1)
    # Not what rounding leaves of 0, as of a single token's key: padding may round otherwise.
    largest = sizes.amax((1, 2), keepdim=True) if sizes.numel() else sizes
    return sizes > _ROUNDINGS * torch.finfo(sizes.dtype).eps * largest


def _counted_terms(inputs: Tensor, counted: Tensor, pixels: Pixels | None) -> list[SideTerms]:
    """Return the terms of the positions that count, [N, groups, S]."""
    every: list[SideTerms] = [_rows_of(inputs) if pixels is None else pixels]
    if bool(counted.all()):
        return every
    if pixels is None or counted.float().mean() < 1 - _FEW:
        return [_Rows(_some_rows(inputs, counted))]
    return [*every, _Rows(_some_rows(inputs, ~counted), left_out=True)]


def _some_rows(values: Tensor, taken: Tensor) -> Tensor:
    """Return [N, groups, S, D] as [groups, M, D] of the positions that some group takes.

    What a group does not take is 0 there, whatever it was.
    """
    rows = values.transpose(0, 1)[:, taken.any(1)]
    if rows.shape[0] == 1:
        return rows
    return rows.masked_fill(~taken.transpose(0, 1)[:, taken.any(1)].unsqueeze(-1), 0)


def _rows_of(values: Tensor) -> _Rows:
    """Return [N, groups, S, D] as [groups, N · S, D]."""
    return _Rows(values.transpose(0, 1).flatten(1, 2))


def _gram(rows: Tensor) -> Tensor:
    """Return XᵀX of [groups, M, D]."""
    # As rows of Xᵀ, whose halves lie in one piece each: that is what products are fastest with.
    return _symmetric(rows.mT.contiguous(), halvings=_HALVINGS)


def _symmetric(columns: Tensor, *, halvings: int) -> Tensor:
    """Return XᵀX of Xᵀ, [groups, D, M], without computing what symmetry tells."""
    width, count = columns.shape[-2:]
    if width <= _WHOLE or count < _MANY or not halvings:
        return batch_product(columns, columns.mT)
    first, second = columns[..., : width // 2, :], columns[..., width // 2 :, :]
    corner = batch_product(first, second.mT)
    return torch.cat(
        [
            torch.cat([_symmetric(first, halvings=halvings - 1), corner], dim=-1),
            torch.cat([corner.mT, _symmetric(second, halvings=halvings - 1)], dim=-1),
        ],
        dim=-2,
    )
