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

import scipy
import torch
from torch import Tensor

from sourcetrace.core.curvature.blocks import CurvatureBlock, SegmentCurvature
from sourcetrace.core.engine.gradient_engine import GradientEngine
from sourcetrace.core.engine.samples import sample_gradients
from sourcetrace.core.gradients.per_example import (
    DenseGradient,
    Gradients,
    LayerGradient,
    bytes_of,
)
from sourcetrace.core.layers.layer import Layer
from sourcetrace.core.methods.trial_responses import TOLERANCE, TrialResponses
from sourcetrace.core.model.examples import EvaluationPoint, Examples
from sourcetrace.core.plan.filters import SegmentFilter
from sourcetrace.core.plan.methods import SCALING_EXAMPLES, SCALING_TRIALS, scaling_queries
from sourcetrace.core.plan.plan import AttributionPlan, EnsembleMember, PlannedSegment
from sourcetrace.core.responses.low_rank_propagation import Propagation
from sourcetrace.core.responses.propagation import SegmentStep
from sourcetrace.core.responses.queries import QueryGradients

_SAMPLE_BYTES = 2**30
"""Bound on the sampled gradients of a segment."""

_PROBE = 8
"""Examples, in one batch, that say what one takes."""

_ITERATIONS = 10

_RIDGE = 1e-6
"""Added to the normalised system, whose columns may be nearly alike."""


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
    left = Propagation.of(segment_filter, block, tolerance=TOLERANCE).apply(rotated)
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
    trials: dict[str, TrialResponses] = {}
    for queries, sampled in met:
        trials |= {
            name: TrialResponses.of(
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
        if max(abs(math.log(scales[name] / before[name])) for name in moving) <= TOLERANCE:
            break
    return scales


def _best_shares(trials: Sequence[TrialResponses], scales: Sequence[float]) -> Tensor:
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
    shares = torch.from_numpy(
        scipy.optimize.nnls(root.mT.cpu().numpy(), target[:, 0].cpu().numpy())[0]
    )
    return (shares.to(units) / units).reshape(len(trials), -1)
