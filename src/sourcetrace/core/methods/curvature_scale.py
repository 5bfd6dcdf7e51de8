"""How much larger each layer's curvature is along the queries' responses than EK-FAC says.

EK-FAC takes layers one by one, and of each layer's matrix the diagonal in a Kronecker basis.
Both leave out what couples directions. Gradients of different layers rise and fall together, so
that the responses x = F_r(H̄) v of the queries, which lie in just those directions, come out too
long, those of some layers far more than others': what a bias or a normalisation could do, larger
layers do as well. With F the Fisher matrix of all layers together, E[g gᵀ] over gradients with
sampled labels, the best responses minimise

    ½ xᵀ (F + D) x − vᵀ x ,    D = F_r(cH̄)⁻¹ − cH̄ ,

whose answer is F_r(cH̄) v where F is cH̄, with a factor c_i for every layer. It is sought among
x_i = Σ_k α_ik F_r(c_k H̄_i) v_i, α ≥ 0 and the same for all queries: as many numbers as layers and
trial factors c_k, from non-negative least squares. F needs no matrix: xᵀFx = E⟨x, g⟩². A layer's
c_i is then the one whose response is as long, v_iᵀ F_r(c_i H̄_i) v_i = v_iᵀ x_i, and D that of the
factors found before, until they settle. c_i H̄_i takes the place of H̄_i in both filters of
`scaled_source`.

*Derived*; docs/reference/results.md has what it does to retrained outcomes.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from scipy.optimize import brentq, nnls
from torch import Tensor

from sourcetrace.core.curvature.blocks import CurvatureBlock, SegmentCurvature
from sourcetrace.core.engine.gradient_engine import GradientEngine
from sourcetrace.core.engine.samples import sample_gradients
from sourcetrace.core.gradients.factored import FactoredGradient
from sourcetrace.core.gradients.per_example import (
    DenseGradient,
    Gradients,
    LayerGradient,
    bytes_of,
)
from sourcetrace.core.layers.layer import Layer
from sourcetrace.core.model.examples import EvaluationPoint, Examples
from sourcetrace.core.plan.filters import SegmentFilter
from sourcetrace.core.plan.methods import SCALING_EXAMPLES, SCALING_TRIALS, scaling_queries
from sourcetrace.core.plan.plan import AttributionPlan, EnsembleMember, PlannedSegment
from sourcetrace.core.responses.low_rank_filters import FilterSum, Weights
from sourcetrace.core.responses.low_rank_propagation import Propagation, most_terms
from sourcetrace.core.responses.propagation import SegmentStep
from sourcetrace.core.responses.queries import QueryGradients

_SAMPLE_BYTES = 2**30
"""Bound on the sampled gradients of a segment."""

_PROBE = 8
"""Examples, in one batch, that say what one takes."""

_SMALLEST, LARGEST = 1 / 64, 2.0**20
"""Bounds on a factor. A layer to which the others leave nothing has the largest."""

_ITERATIONS = 10
_TOLERANCE = 0.01
"""Relative change of the factors at which the iteration stops; low-rank sums are held to it too."""

_RIDGE = 1e-6
"""Added to the normalised system, whose columns may be nearly alike."""

_MANTISSA_LEFT_OUT = 17
"""Bits of float32's 23 that do not tell eigenvalues apart."""


def curvature_scales(
    engine: GradientEngine,
    plan: AttributionPlan,
    fitted: Sequence[SegmentCurvature],
    queries: Examples,
    groups: Sequence[Sequence[Layer]],
) -> list[dict[str, float]]:
    """Return c of every segment by layer.

    Args:
        engine: Gives the gradients with sampled labels, and the queries'.
        plan: The members and their segments.
        fitted: H̄ of each segment.
        queries: The queries, of which `scaling_queries` are used.
        groups: The layers whose gradients are in memory together; each in one.
    """
    count = scaling_queries(len(queries), sum(one.size for one in engine.coverage.layers))
    numbers = _drawn(queries, torch.arange(len(queries)), count, engine.seed)
    chosen = queries.subset(numbers.tolist())
    parts = [engine.of_layers(group) for group in groups]
    found: list[dict[str, float]] = []
    for member, curvatures in plan.by_member(fitted):
        steps = list(zip(member.segments, curvatures, strict=True))[::-1]
        last_first: list[dict[str, float]] = []
        for planned, curvature in steps:
            count = min(_affordable(part, planned) for part in parts)
            met = (
                (
                    _reaching(part, member, chosen, list(zip(steps, last_first, strict=False))),
                    [_sampled(part, planned, point, count) for point in planned.points],
                )
                for part in parts
            )
            last_first.append(layer_scales(planned, curvature, met))
        found += reversed(last_first)
    return found


def _affordable(part: GradientEngine, planned: PlannedSegment) -> int:
    """Return how many examples' gradients to take at each point of a segment."""
    points, few = planned.points, min(_PROBE, len(planned.examples))
    each = bytes_of(_sampled(part, planned, points[0], few)) // few
    return part.affordable(
        most=SCALING_EXAMPLES, limit=_SAMPLE_BYTES, points=len(points), each=each
    )


def _sampled(
    part: GradientEngine, planned: PlannedSegment, point: EvaluationPoint, count: int
) -> Gradients:
    """Return gradients at a point; another point has other examples, so that all say more."""
    examples = _drawn(part.training, planned.examples, count, part.seed, at=point.draws)
    return sample_gradients(part, point, examples, sampled=True)


def _drawn(examples: Examples, numbers: Tensor, count: int, seed: int, at: str = "") -> Tensor:
    """Return at most `count` of the numbers; one example more or less changes at most one."""
    return examples.drawn(numbers, count, seed=seed, purpose=f"curvature scale {at}")


def _reaching(
    part: GradientEngine,
    member: EnsembleMember,
    queries: Examples,
    later: Sequence[tuple[tuple[PlannedSegment, SegmentCurvature], Mapping[str, float]]],
) -> Gradients:
    """Return the queries' gradients behind the later segments, the last first."""
    reaching: Gradients = QueryGradients.of(part, member, queries).measured
    for (planned, fitted), scales in later:
        reaching = {
            name: _handed_on(one, planned.filter_of(name), fitted[name].scaled(scales[name]))
            for name, one in reaching.items()
        }
    return reaching


def _handed_on(
    queries: LayerGradient, segment_filter: SegmentFilter, block: CurvatureBlock
) -> LayerGradient:
    if block.preconditioner is not None:
        return DenseGradient(SegmentStep(queries.dense(), segment_filter, block).propagated())
    rotated = queries.rotated(block.basis.inputs, block.basis.outputs)
    left = Propagation.of(segment_filter, block, tolerance=_TOLERANCE).apply(rotated)
    back = block.basis.inverse()
    return left.rotated(back.inputs, back.outputs)


def layer_scales(
    planned: PlannedSegment,
    curvature: SegmentCurvature,
    met: Iterable[tuple[Gradients, Sequence[Gradients]]],
) -> dict[str, float]:
    """Return c of every layer in one segment; 1 where no query or no step meets the layer.

    Args:
        planned: The segment.
        curvature: H̄ by layer.
        met: Of every group of layers, v, and gradients with sampled labels at each point.
    """
    trials: dict[str, _Trial] = {}
    for queries, sampled in met:
        trials |= {
            name: _Trial.of(
                planned.filter_of(name), curvature[name], one, [part[name] for part in sampled]
            )
            for name, one in queries.items()
        }
        del queries, sampled  # they make room for the next group's
    scales = dict.fromkeys(trials, 1.0)
    moving = {name: trial for name, trial in trials.items() if trial.moves}
    for _ in range(_ITERATIONS if moving else 0):
        shares = _best_shares(list(moving.values()), [scales[name] for name in moving])
        before = dict(scales)
        for (name, trial), share in zip(moving.items(), shares, strict=True):
            scales[name] = trial.factor_of(float(share @ trial.lengths))
        if max(abs(math.log(scales[name] / before[name])) for name in moving) <= _TOLERANCE:
            break
    return scales


@dataclass(frozen=True)
class _Trial:
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
    ) -> "_Trial":
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
        return math.exp(brentq(excess, low, high)) if excess(low) > 0 else _SMALLEST


def _binned(eigenvalues: Tensor, energy: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean eigenvalues of bins 1/64 wide, relatively, and the energy in each, float64, [M].

    Only sums over all eigenvalues are wanted, of smooth functions of them.
    """
    values, weights = eigenvalues.float().flatten(), energy.double().flatten()
    keys, places = torch.unique(values.view(torch.int32) >> _MANTISSA_LEFT_OUT, return_inverse=True)
    empty = weights.new_zeros(len(keys))
    summed = empty.index_add(0, places, weights)
    means = empty.index_add(0, places, weights * values.double()) / summed
    plain = empty.index_add(0, places, values.double()) / torch.bincount(places)
    return means.where(summed > 0, plain), summed


def _best_shares(trials: Sequence[_Trial], scales: Sequence[float]) -> Tensor:
    """Return α ≥ 0 of every layer and factor, [layers, K], D that of the layers' scales."""
    products = torch.cat([one.products for one in trials])
    system = products @ products.T / max(1, trials[0].count)
    for number, (trial, scale) in enumerate(zip(trials, scales, strict=True)):
        own = slice(number * len(SCALING_TRIALS), (number + 1) * len(SCALING_TRIALS))
        system[own, own] += trial.overlaps(scale)
    lengths = torch.cat([one.lengths for one in trials])
    units = system.diagonal().sqrt()
    units = units.where(units > 0, 1.0)  # a response that meets nothing
    normalised = system / units / units.unsqueeze(1)
    normalised.diagonal().add_(_RIDGE)
    root = torch.linalg.cholesky(normalised)
    target = torch.linalg.solve_triangular(root, (lengths / units).unsqueeze(1), upper=False)
    shares = torch.from_numpy(nnls(root.mT.cpu().numpy(), target[:, 0].cpu().numpy())[0])
    return (shares.to(units) / units).reshape(len(trials), -1)


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
        sums = FilterSum.of(values, weights, tolerance=_TOLERANCE, longest=most_terms(block))
        if sums is not None:
            return sums.apply(queries)
    return values * written_out
