"""One layer's responses under the trial factors of its curvature (`curvature_scale`)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import scipy
import torch
from torch import Tensor

from sourcetrace.core.curvature.blocks import CurvatureBlock
from sourcetrace.core.gradients.factored import FactoredGradient
from sourcetrace.core.gradients.indexed import sums_by_key
from sourcetrace.core.gradients.per_example import LayerGradient
from sourcetrace.core.plan.filters import SegmentFilter
from sourcetrace.core.plan.methods import SCALING_TRIALS
from sourcetrace.core.responses.low_rank_filters import FilterSum, Weights
from sourcetrace.core.responses.low_rank_propagation import most_terms
from sourcetrace.core.responses.propagation import SegmentStep

_SMALLEST, LARGEST = 1 / 64, 2.0**20
"""Bounds on a factor. A layer to which the others leave nothing has the largest."""

TOLERANCE = 0.01
"""Relative change of the factors at which they stay; low-rank sums are held to it too."""

_MANTISSA_LEFT_OUT = 17
"""Bits of float32's 23 that do not tell eigenvalues apart."""


@dataclass(frozen=True)
class TrialResponses:
    """One layer's responses under the trial factors.

    Attributes:
        filter: F_r of the layer.
        eigenvalues: Λ, of H̄, float64, [M].
        shift: What coupled decay adds to them, [M]; 0 for none.
        energy: Σ_q v² at each, float64, [M].
        products: ⟨x, g⟩ under every factor, float64, [K, points · Q · N].
        count: Sampled gradients, over all points.
    """

    filter: SegmentFilter
    eigenvalues: Tensor
    shift: Tensor | float
    energy: Tensor
    products: Tensor
    count: int

    @classmethod
    def of(
        cls,
        segment_filter: SegmentFilter,
        block: CurvatureBlock,
        queries: LayerGradient,
        sampled: Sequence[LayerGradient],
    ) -> "TrialResponses":
        """Filter the queries under every factor, and meet the sampled gradients with them."""
        if block.preconditioner is None:
            # All in the eigenbasis: c changes the filter alone.
            basis = block.basis
            rotated = queries.rotated(basis.inputs, basis.outputs)
            met = [one.rotated(basis.inputs, basis.outputs) for one in sampled]
            energy = rotated.dense().square().sum(0)
        else:  # it stands between the parameters and the eigenbasis
            rotated, met = queries, list(sampled)
            energy = block.basis.rotate(block.preconditioner * queries.dense()).square().sum(0)
        products = []
        for factor in SCALING_TRIALS:
            response = _responses(segment_filter, block.scaled(factor), rotated)
            products.append(torch.cat([one.products(response).flatten() for one in met]))
        count = sum(len(one) for one in met)
        shift: Tensor | float = segment_filter.coupled_decay
        if shift and block.preconditioner is not None:
            shift = (
                (block.decayed(segment_filter.coupled_decay) - block.eigenvalues).double().flatten()
            )
            values, summed = block.eigenvalues.double().flatten(), energy.double().flatten()
        else:
            values, summed = _binned(block.eigenvalues, energy)
        return cls(segment_filter, values, shift, summed, torch.stack(products).double(), count)

    def response(self, factor: float) -> Tensor:
        """Return F_r(cΛ), float64, [M]."""
        return self.filter.response(factor * self.eigenvalues + self.shift)

    @cached_property
    def lengths(self) -> Tensor:
        """Σ_q vᵀx under every factor, [K]."""
        return torch.stack([self.energy @ self.response(factor) for factor in SCALING_TRIALS])

    @property
    def moves(self) -> bool:
        """Whether the queries have any response here, and the curvature a say in it."""
        return bool((self.lengths > 0).all() and (self.eigenvalues > 0).any())

    def overlaps(self, scale: float) -> Tensor:
        """Return Σ_q xᵀDx of every two factors, D that of c H̄, [K, K]."""
        exact = self.response(scale)
        damping = (1 / exact - scale * self.eigenvalues).clamp_min(0)
        weights = (self.energy * damping).where(exact > 0, 0.0)
        values = torch.stack([self.response(factor) for factor in SCALING_TRIALS])
        return (values * weights) @ values.T

    def factor_of(self, length: float) -> float:
        """Return c at which Σ_q vᵀ F_r(c H̄) v is `length`, within the bounds."""
        low, high = math.log(_SMALLEST), math.log(LARGEST)

        def excess(logarithm: float) -> float:
            return float(self.energy @ self.response(math.exp(logarithm))) - length

        if excess(high) > 0:
            return LARGEST
        return math.exp(scipy.optimize.brentq(excess, low, high)) if excess(low) > 0 else _SMALLEST


def _binned(eigenvalues: Tensor, energy: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean eigenvalues of bins 1/64 wide, relatively, and the energy in each, float64, [M].

    Only sums over all eigenvalues are wanted, of smooth functions of them.
    """
    values, weights = eigenvalues.float().flatten(), energy.double().flatten()
    # Of numbers ≥ 0 it leaves 14 bits, which are sorted faster as 16 than as 32.
    bins = (values.view(torch.int32) >> _MANTISSA_LEFT_OUT).to(torch.int16)
    _, summed, weighted = sums_by_key(bins, weights, weights * values.double())
    return (weighted / summed).where(summed > 0, 0.0), summed  # without energy any value does


def _responses(
    segment_filter: SegmentFilter, block: CurvatureBlock, queries: LayerGradient
) -> Tensor | FactoredGradient:
    """Return x of the queries, in the eigenbasis unless there is a preconditioner."""
    if block.preconditioner is not None:
        return SegmentStep(queries.dense(), segment_filter, block).response()
    values = segment_filter.response(block.decayed(segment_filter.coupled_decay))
    written_out = queries.dense()
    if isinstance(queries, FactoredGradient):
        weights = Weights.of(written_out.square().sum(0), block.eigenvalues)
        sums = FilterSum.of(values, weights, tolerance=TOLERANCE, longest=most_terms(block))
        if sums is not None:
            return sums.apply(queries)
    return values * written_out
