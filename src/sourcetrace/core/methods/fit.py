"""Fitting the curvature of a segment, block by block.

Memory holds the eigenbases and the sums of the corrected eigenvalues of the engine's layers, and
one block of training gradients; it does not grow with the number of training examples.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from sourcetrace.core.curvature.blocks import (
    CurvatureBlock,
    EigenBasis,
    SegmentCurvature,
)
from sourcetrace.core.curvature.covariance import CovarianceSums, LayerCovariances
from sourcetrace.core.curvature.preconditioner import RankOneScaling
from sourcetrace.core.engine.gradient_engine import GradientEngine
from sourcetrace.core.model.examples import Block, EvaluationPoint
from sourcetrace.core.plan.plan import PlannedSegment


def fit_segment(
    engine: GradientEngine,
    planned: PlannedSegment,
    covariances: Mapping[str, LayerCovariances],
    *,
    preconditioners: Mapping[str, Tensor] | None = None,
    progress: Iterable[tuple[EvaluationPoint, Block]] | None = None,
) -> SegmentCurvature:
    """Fit the EK-FAC curvature of one segment.

    Args:
        engine: Gives the gradients with sampled labels.
        planned: The segment.
        covariances: Point id -> layer -> sums of A and G.
        preconditioners: P̄^½ by layer, [groups, D_out, D_in], of an adaptive optimiser.
        progress: The segment's (point, block) pairs, wrapped to show progress.
    """
    layers, dtype = engine.coverage.layers, engine.dtype
    roots = {name: root.to(engine.device) for name, root in (preconditioners or {}).items()}
    scalings: dict[str, RankOneScaling] = {}
    bases: dict[str, EigenBasis] = {}
    for layer in layers:
        activation, pseudo_gradient = CovarianceSums.mean(
            covariances[point.id][layer.name].to(engine.device) for point in planned.points
        )
        if layer.name in roots:
            scaling = RankOneScaling.of(
                roots[layer.name], activation=activation, pseudo_gradient=pseudo_gradient
            )
            activation = scaling.scale_inputs(activation)
            pseudo_gradient = scaling.scale_outputs(pseudo_gradient)
            scalings[layer.name] = scaling
        bases[layer.name] = EigenBasis.of(activation, pseudo_gradient, dtype=dtype)
        del activation, pseudo_gradient  # the next layer's take their place
    sums = {
        layer.name: torch.zeros(layer.shape, dtype=torch.float64, device=engine.device)
        for layer in layers
    }
    for point, block in progress if progress is not None else engine.visits(planned.points):
        for name, gradient in engine.sampled_gradients(point, block).items():
            basis = bases[name]
            sums[name] += (
                scalings[name].rotated_squares(gradient, roots[name], basis)
                if name in roots
                else gradient.rotated_squares(basis.inputs, basis.outputs)
            )
    terms = engine.draws * sum(len(point.curvature_examples) for point in planned.points)
    return {
        layer.name: CurvatureBlock(
            bases[layer.name], (sums[layer.name] / terms).to(dtype), roots.get(layer.name)
        )
        for layer in layers
    }
