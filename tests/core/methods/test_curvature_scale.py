"""The factors between EK-FAC and the Fisher matrix along the queries' responses."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from sourcetrace.core.curvature.blocks import CurvatureBlock, EigenBasis
from sourcetrace.core.engine.gradient_engine import GradientEngine
from sourcetrace.core.engine.samples import sample_gradients
from sourcetrace.core.gradients.per_example import DenseGradient
from sourcetrace.core.methods import curvature_scale
from sourcetrace.core.methods.curvature_scale import curvature_scales, layer_scales
from sourcetrace.core.methods.trial_responses import LARGEST
from sourcetrace.core.model.examples import EvaluationPoint, Examples
from sourcetrace.core.plan.plan import PlannedSegment
from sourcetrace.core.responses.queries import QueryGradients
from sourcetrace.core.training.segments import Segment
from sourcetrace.tasks import ClassificationTask
from tests.oracles.dense import matrix_propagation, matrix_response
from tests.tiny import (
    Case,
    case_plan,
    covariances_at,
    fit_segment,
    gradient_source,
    seeded,
    segment_filter,
    tiny_case,
)

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


@pytest.mark.parametrize("factor", [1.0, 0.5, 3.0, 6.0, 20.0])
def test_a_curvature_of_another_size_is_set_right(factor):
    """With a block that is the Fisher matrix divided by `factor`, decay or not in the way.

    Exactly at the factors that are tried; between them and below, what they combine to.
    """
    with seeded(41):
        truth = torch.rand(SIZE, dtype=torch.float64) + 0.1
        queries = torch.randn(3, 1, 1, SIZE, dtype=torch.float64)
    scales = layer_scales(
        planned(SIZE),
        {"layer": diagonal_block(truth / factor)},
        [({"layer": DenseGradient(queries)}, [{"layer": axis_gradients(truth)}])],
    )
    assert scales["layer"] == pytest.approx(factor, rel=0.02 if factor in (1.0, 6.0) else 0.2)


def test_queries_that_no_gradient_and_no_step_resists_respond_as_far_as_they_may():
    filters = segment_filter("scaled_source", step_mass=STEP_MASS, weight_decay=0.0)
    segment = Segment(1, "training", STEP_MASS, 0.0, ("last",))
    scales = layer_scales(
        PlannedSegment(segment, (), filters, torch.arange(SIZE)),
        {"layer": diagonal_block(torch.full((SIZE,), 1e6, dtype=torch.float64))},
        [
            (
                {"layer": DenseGradient(torch.ones(3, 1, 1, SIZE, dtype=torch.float64))},
                [{"layer": axis_gradients(torch.zeros(SIZE, dtype=torch.float64))}],
            )
        ],
    )
    assert scales["layer"] == pytest.approx(1 / 64)


@pytest.mark.parametrize("layers", [2, 3, 5])
def test_layers_that_move_together_count_together(layers):
    """Block by block each layer sees the same curvature; together it is `layers` times it."""
    truth = torch.tensor([0.7, 0.2, 1.5, 0.4], dtype=torch.float64)
    with seeded(42):
        queries = torch.randn(3, 1, 1, SIZE, dtype=torch.float64)
    names = [f"layer {i}" for i in range(layers)]
    scales = layer_scales(
        planned(SIZE),
        {name: diagonal_block(truth) for name in names},
        [
            (
                dict.fromkeys(names, DenseGradient(queries)),
                [dict.fromkeys(names, axis_gradients(truth))],
            )
        ],
    )
    assert list(scales) == names
    assert list(scales.values()) == pytest.approx([layers] * layers, rel=0.1)


def test_a_layer_to_which_the_others_leave_nothing_has_no_response():
    """A small layer's gradients are a shadow of a large one's, its queries point the other way."""
    truth = torch.full((SIZE,), 2.0, dtype=torch.float64)
    with seeded(44):
        queries = torch.randn(3, 1, 1, SIZE, dtype=torch.float64)
    gradients = axis_gradients(truth)
    scales = layer_scales(
        planned(SIZE),
        {"large": diagonal_block(truth), "small": diagonal_block(0.01 * truth)},
        [
            (
                {"large": DenseGradient(queries), "small": DenseGradient(0.01 * queries)},
                [{"large": gradients, "small": DenseGradient(0.1 * gradients.dense())}],
            )
        ],
    )
    assert scales["large"] == pytest.approx(1.0, rel=0.02)
    assert scales["small"] == LARGEST


def test_queries_without_curvature_leave_it_alone():
    flat = torch.zeros(SIZE, dtype=torch.float64)
    with seeded(43):
        queries = torch.randn(2, 1, 1, SIZE, dtype=torch.float64)
    both = {"layer": diagonal_block(flat), "unmet": diagonal_block(flat + 1)}
    scales = layer_scales(
        planned(SIZE),
        both,
        [
            (
                {"layer": DenseGradient(queries), "unmet": DenseGradient(0 * queries)},
                [dict.fromkeys(both, axis_gradients(flat))],
            )
        ],
    )
    assert scales["unmet"] == 1
    assert scales["layer"] == 1


def scales_of(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> tuple[dict[str, float], dict[str, set[str]]]:
    """Return the factors of one segment, and the names of those that gave them at each point."""
    task, met = ClassificationTask(), defaultdict(set)
    source = gradient_source(case, task, batch_size=100)

    def noting(
        engine: GradientEngine, point: EvaluationPoint, examples: Tensor, **kind: Any
    ) -> Any:
        if len(examples) > 8:  # so few tell what one takes
            met[point.id] |= {case.ids[number] for number in examples.tolist()}
        return sample_gradients(engine, point, examples, **kind)

    monkeypatch.setattr(curvature_scale, "sample_gradients", noting)
    plan = case_plan(case, "scaled_source", segments=1)
    covariances = {point.id: covariances_at(source, point) for point in plan.points}
    fitted = [fit_segment(source, one, covariances) for one in plan.segments]
    items = list(zip(case.query_images, case.query_labels, strict=True))
    names = [str(image.sum().item()) for image in case.query_images]
    examples = Examples(items, names, task.collate)
    return curvature_scales(source, plan, fitted, examples, [source.coverage.layers])[0], met


@pytest.mark.parametrize("seed", range(3))
def test_one_in_a_hundred_left_out_leaves_the_samples_and_another_order_the_factors(
    seed, monkeypatch
):
    monkeypatch.setattr(curvature_scale, "SCALING_EXAMPLES", 150)
    monkeypatch.setattr(curvature_scale, "scaling_queries", lambda *counts: 2)
    case = tiny_case(300 * "a")
    found, met = scales_of(case, monkeypatch)
    assert [len(one) for one in met.values()] == 4 * [150]
    assert len(set.union(*met.values())) > 270, "points have samples of their own"
    order = np.random.default_rng(seed).permutation(300).tolist()
    turned = replace(
        case.reordered(order),
        query_images=case.query_images.flip(0),
        query_labels=case.query_labels.flip(0),
    )
    again, same = scales_of(turned, monkeypatch)
    assert same == met
    assert again == pytest.approx(found, rel=1e-6)
    _, after = scales_of(case.reordered(sorted(order[3:])), monkeypatch)
    assert [len(one) for one in after.values()] == 4 * [150]
    assert sum(len(after[point] & one) for point, one in met.items()) >= 0.98 * 600


def test_gradients_that_take_much_are_of_fewer_examples(monkeypatch):
    monkeypatch.setattr(curvature_scale, "_SAMPLE_BYTES", 1)
    _, met = scales_of(tiny_case(100 * "a"), monkeypatch)
    assert [len(one) for one in met.values()] == 4 * [32]


def dense(block: CurvatureBlock) -> Tensor:
    """Return the assembled H̄ of a layer, [P, P]."""
    identity = torch.eye(block.eigenvalues.numel(), dtype=torch.float64)
    directions = identity.reshape(-1, *block.eigenvalues.shape)
    return block.apply(lambda sigma: sigma, directions).flatten(1)


def test_every_segment_is_scaled_for_the_queries_that_reach_it():
    """Dense matrices and another solver find the same lengths of all layers' responses."""
    case, task = tiny_case(), ClassificationTask()
    source = gradient_source(case, task)
    plan = case_plan(case, "scaled_source", segments=2)
    covariances = {point.id: covariances_at(source, point) for point in plan.points}
    fitted = [fit_segment(source, one, covariances) for one in plan.segments]
    items = list(zip(case.query_images, case.query_labels, strict=True))
    examples = Examples(items, [f"query-{i}" for i in range(len(items))], task.collate)
    measured = QueryGradients.of(source, plan.members[0], examples).measured
    names = list(measured)
    whole = [source.coverage.layers]
    found = curvature_scales(source, plan, fitted, examples, whole)
    # Whatever is in memory together: products are the layers' own.
    alone = curvature_scales(source, plan, fitted, examples, [[one] for one in whole[0]])
    for one, other in zip(found, alone, strict=True):
        assert one == pytest.approx(other, rel=1e-9)

    walking = {name: gradient.dense().flatten(1) for name, gradient in measured.items()}
    for one, curvature, scales in reversed(list(zip(plan.segments, fitted, found, strict=True))):
        mass, decay = one.segment.step_mass, one.segment.weight_decay
        matrices = {name: dense(curvature[name]) for name in names}
        expected = best_lengths(one, scales, matrices, walking, fisher(source, one, names))
        least = 1e-5 * max(expected.values())
        for name in names:
            matrix = scales[name] * matrices[name]
            decayed = matrix + decay * torch.eye(len(matrix), dtype=matrix.dtype)
            responses = walking[name] @ matrix_response(decayed, mass)
            length = float((responses * walking[name]).sum())
            assert length == pytest.approx(expected[name], rel=0.04, abs=least)
            walking[name] = walking[name] @ matrix_propagation(decayed, mass)
        assert max(abs(one - 1) for one in scales.values()) > 0.05, "factors of 1 prove little"


def fisher(source: GradientEngine, segment: PlannedSegment, names: list[str]) -> Tensor:
    """Return E[g gᵀ] of all layers together, [P, P]."""
    total: Tensor | float = 0.0
    for point in segment.points:
        parts = [
            source.sampled_gradients(point, block)
            for block in source.blocks()
            if len(point.rows(block))
        ]
        flat = torch.cat(
            [torch.cat([part[n].dense().flatten(1) for n in names], 1) for part in parts]
        )
        total = total + flat.T @ flat / len(flat) / len(segment.points)
    assert isinstance(total, Tensor)
    return total


def best_lengths(
    segment: PlannedSegment,
    scales: Mapping[str, float],
    matrices: dict[str, Tensor],
    queries: dict[str, Tensor],
    fisher_matrix: Tensor,
) -> dict[str, float]:
    """Return Σ_q vᵀx of every layer at the minimum, found by bounded quasi-Newton steps."""
    mass, decay = segment.segment.step_mass, segment.segment.weight_decay
    directions, owners, damping = [], [], []
    for number, (name, matrix) in enumerate(matrices.items()):
        identity = torch.eye(len(matrix), dtype=matrix.dtype)
        scaled = scales[name] * matrix
        damping.append(matrix_response(scaled + decay * identity, mass).inverse() - scaled)
        for factor in (1.0, 6.0, 36.0):
            part = queries[name] @ matrix_response(factor * matrix + decay * identity, mass)
            padded = [part if other == name else 0 * one for other, one in queries.items()]
            directions.append(torch.cat(padded, dim=1))
            owners.append(number)
    basis = torch.stack(directions)
    whole = fisher_matrix + torch.block_diag(*damping)
    system = torch.einsum("aqi,ij,bqj->ab", basis, whole, basis)
    reach = torch.einsum("aqi,qi->a", basis, torch.cat(list(queries.values()), dim=1))
    units = system.diagonal().sqrt()
    system, reach = system / units / units.unsqueeze(1), reach / units
    system = system + 1e-6 * torch.eye(len(system), dtype=system.dtype)
    answer = minimize(
        lambda a: float(0.5 * a @ system.numpy() @ a - reach.numpy() @ a),
        np.zeros(len(reach)),
        jac=lambda a: system.numpy() @ a - reach.numpy(),
        bounds=[(0, None)] * len(reach),
        method="L-BFGS-B",
        options={"maxiter": 20_000, "maxfun": 100_000, "ftol": 1e-15, "gtol": 1e-12},
    ).x
    lengths = dict.fromkeys(matrices, 0.0)
    for owner, share, along in zip(owners, answer, reach.tolist(), strict=True):
        lengths[list(matrices)[owner]] += float(share) * along
    return lengths
