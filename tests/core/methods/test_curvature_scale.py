"""The factor between EK-FAC and the Fisher matrix along the queries' responses."""

import pytest
import torch
from torch import Tensor

from sourcetrace.core.curvature.blocks import CurvatureBlock, EigenBasis, SegmentCurvature
from sourcetrace.core.gradients.per_example import DenseGradient
from sourcetrace.core.methods.curvature_scale import curvature_scale, scale_curvature
from sourcetrace.core.methods.fit import fit_segment
from sourcetrace.core.model.examples import Examples
from sourcetrace.core.plan.plan import PlannedSegment
from sourcetrace.core.responses.queries import QueryGradients
from sourcetrace.core.training.segments import Segment
from sourcetrace.tasks import ClassificationTask
from tests.oracles.dense import matrix_propagation, matrix_response
from tests.tiny import case_plan, covariances_at, gradient_source, seeded, segment_filter, tiny_case

STEP_MASS, DECAY = 3.0, 0.05
SIZE = 4


def planned(examples: int) -> PlannedSegment:
    filters = segment_filter("scaled_source", step_mass=STEP_MASS, weight_decay=DECAY)
    segment = Segment(1, "training", STEP_MASS, DECAY, ("last",))
    return PlannedSegment(segment, (), filters, torch.arange(examples))


def diagonal_block(eigenvalues: Tensor) -> CurvatureBlock:
    return CurvatureBlock(EigenBasis(None, None), eigenvalues.reshape(1, 1, -1))


def axis_gradients(eigenvalues: Tensor) -> DenseGradient:
    """Return as many gradients as eigenvalues, each along its axis: E[g gᵀ] = diag(λ)."""
    return DenseGradient((eigenvalues * len(eigenvalues)).sqrt().diag().unsqueeze(1).unsqueeze(1))


@pytest.mark.parametrize("factor", [1.0, 0.25, 6.0])
def test_a_curvature_of_another_size_is_set_right(factor):
    """With a block that is the Fisher matrix divided by `factor`, decay or not in the way."""
    with seeded(41):
        truth = torch.rand(SIZE, dtype=torch.float64) + 0.1
        queries = torch.randn(3, 1, 1, SIZE, dtype=torch.float64)
    scale = curvature_scale(
        planned(SIZE),
        {"layer": diagonal_block(truth / factor)},
        {"layer": DenseGradient(queries)},
        [{"layer": axis_gradients(truth)}],
    )
    assert scale == pytest.approx(factor, rel=0.02)


@pytest.mark.parametrize("layers", [2, 3, 5])
def test_layers_that_move_together_count_together(layers):
    """Block by block each layer sees the same curvature; together it is `layers` times it."""
    truth = torch.tensor([0.7, 0.2, 1.5, 0.4], dtype=torch.float64)
    with seeded(42):
        queries = torch.randn(3, 1, 1, SIZE, dtype=torch.float64)
    names = [f"layer {i}" for i in range(layers)]
    scale = curvature_scale(
        planned(SIZE),
        {name: diagonal_block(truth) for name in names},
        dict.fromkeys(names, DenseGradient(queries)),
        [dict.fromkeys(names, axis_gradients(truth))],
    )
    assert scale == pytest.approx(layers, rel=0.02)


def test_queries_without_curvature_leave_it_alone():
    flat = torch.zeros(SIZE, dtype=torch.float64)
    with seeded(43):
        queries = torch.randn(2, 1, 1, SIZE, dtype=torch.float64)
    scale = curvature_scale(
        planned(SIZE),
        {"layer": diagonal_block(flat)},
        {"layer": DenseGradient(queries)},
        [{"layer": axis_gradients(flat)}],
    )
    assert scale == 1


def dense(curvature: SegmentCurvature, names: list[str]) -> Tensor:
    """Return the assembled H̄, [P, P]."""
    blocks = []
    for name in names:
        block = curvature[name]
        identity = torch.eye(block.eigenvalues.numel(), dtype=torch.float64)
        directions = identity.reshape(-1, *block.eigenvalues.shape)
        blocks.append(block.apply(lambda sigma: sigma, directions).flatten(1))
    return torch.block_diag(*blocks)


def test_every_segment_solves_its_equation_at_the_queries_that_reach_it():
    case, task = tiny_case(), ClassificationTask()
    source = gradient_source(case, task)
    plan = case_plan(case, "scaled_source", segments=2)
    covariances = {point.id: covariances_at(source, point) for point in plan.points}
    fitted = [fit_segment(source, one, covariances) for one in plan.segments]
    items = list(zip(case.query_images, case.query_labels, strict=True))
    examples = Examples(items, [f"query-{i}" for i in range(len(items))], task.collate)
    measured = QueryGradients.of(source, plan.members[0], examples).measured
    queries = {name: gradient.dense() for name, gradient in measured.items()}
    names = list(queries)
    found = scale_curvature(source, plan, fitted, examples)

    walking = torch.cat([queries[name].flatten(1) for name in names], dim=1)
    for one, curvature, (scale, scaled) in reversed(
        list(zip(plan.segments, fitted, found, strict=True))
    ):
        fisher: Tensor | float = 0.0
        for point in one.points:
            parts = [
                source.sampled_gradients(point, block)
                for block in source.blocks()
                if len(point.rows(block))
            ]
            flat = torch.cat(
                [torch.cat([part[n].dense().flatten(1) for n in names], 1) for part in parts]
            )
            fisher = fisher + flat.T @ flat / len(flat) / len(one.points)
        matrix = scale * dense(curvature, names)
        assert torch.allclose(matrix, dense(scaled, names), rtol=1e-12)
        decayed = matrix + one.segment.weight_decay * torch.eye(len(matrix), dtype=matrix.dtype)
        responses = walking @ matrix_response(decayed, one.segment.step_mass)
        expected = torch.einsum("qi,ij,qj->", responses, matrix, responses)
        measured = torch.einsum("qi,ij,qj->", responses, fisher, responses)
        assert float(measured / expected) == pytest.approx(1.0, rel=0.02)
        assert abs(scale - 1) > 0.05, "a factor of 1 would prove little"
        walking = walking @ matrix_propagation(decayed, one.segment.step_mass)
