"""ASTRA against dense solves with the Gauss–Newton matrix of all layers together."""

from dataclasses import replace

import torch
from torch import Tensor

from sourcetrace.core.methods.astra import SolveSettings, astra_responses
from sourcetrace.tasks import ClassificationTask
from tests.core.methods.test_attribution import ONE_STAGE, TWO_STAGES, DenseRun, check_scores
from tests.oracles.scores import frame_scores
from tests.tiny import (
    LeastLikelyLabels,
    assert_close,
    attribute,
    case_plan,
    covariances_at,
    fit_segment,
    gradient_source,
    seeded,
    segment_filter,
    tiny_case,
)

CLASSES = 3


def gauss_newton(dense: DenseRun, checkpoints: tuple[str, ...], own: list[int]) -> Tensor:
    """Return the mean of Jᵀ (diag(p) − p pᵀ) J over these examples, [P, P]."""
    dense.load(*checkpoints)
    images, labels = dense.case.images[own], dense.case.labels[own]
    rows = torch.stack(
        [dense.gradients(lambda logits, _, c=c: logits[c], images, labels) for c in range(CLASSES)],
        dim=1,
    )
    with torch.no_grad():
        probability = dense.case.model(images).softmax(1)
    hessian = probability.diag_embed() - probability.unsqueeze(2) * probability.unsqueeze(1)
    return torch.einsum("ncp,ncd,ndr->pr", rows, hessian, rows) / len(own)


def test_astra_source_equals_the_dense_oracle():
    """Responses from the exact matrix at the mean weights, propagation from EK-FAC."""
    case = tiny_case(TWO_STAGES)
    dense = DenseRun(case)
    queries = dense.query_gradients()
    segments = [
        dense.segment([("c1",), ("c2",)], "a", step_mass=2.0),
        dense.segment([("c3",), ("c4",)], "b", step_mass=2.0),
    ]
    stages = [[i for i, one in enumerate(case.stages) if one == stage] for stage in "ab"]
    exact = [
        gauss_newton(dense, ("c1", "c2"), stages[0]),
        gauss_newton(dense, ("c3", "c4"), stages[1]),
    ]
    identity = torch.eye(len(exact[0]), dtype=torch.float64)
    inverses = {
        id(segment): torch.linalg.inv(matrix + (1 / 2.0 + 0.03) * identity)
        for segment, matrix in zip(segments, exact, strict=True)
    }
    expected = frame_scores(
        queries,
        segments,
        response=lambda segment: inverses[id(segment)],
        propagation=lambda segment: torch.linalg.matrix_exp(-segment.step_mass * segment.decayed),
    )
    found = attribute(case, "astra_source", task=LeastLikelyLabels(), segments=2)
    check_scores(found.scores, expected)


def test_astra_influence_equals_the_damped_dense_inverse():
    case = tiny_case(TWO_STAGES)
    dense = DenseRun(case)
    queries = dense.query_gradients()
    segment = dense.segment([("c4",)], None, step_mass=1.0)
    exact = gauss_newton(dense, ("c4",), list(range(8)))
    inverse = torch.linalg.inv(exact + 0.05 * torch.eye(len(exact), dtype=torch.float64))
    expected = frame_scores(
        queries,
        [segment],
        response=lambda _: inverse,
        propagation=lambda _: torch.eye(len(exact), dtype=torch.float64),
    )
    found = attribute(case, "astra_influence", task=LeastLikelyLabels(), damping=0.05)
    check_scores(found.scores, expected)


def test_self_influence_is_that_of_ekfac():
    case = tiny_case(TWO_STAGES)
    for method, plain in (("astra_source", "source"), ("astra_influence", "influence")):
        assert_close(attribute(case, method).self_influence, attribute(case, plain).self_influence)


def solved(*, scale: float = 1.0, coupled: bool = False, roots: bool = False, **settings):
    """Return a one-segment plan's responses, solves, curvature, filter and queries."""
    case = tiny_case(ONE_STAGE)
    source = gradient_source(case, ClassificationTask())
    plan = case_plan(case, "astra_source", segments=1)
    (planned,) = plan.segments
    planned = replace(
        planned,
        filter=segment_filter(
            "astra_source",
            step_mass=4.0,
            weight_decay=0.3,
            optimizer="Adam" if coupled else "SGD",
        ),
    )
    covariances = {point.id: covariances_at(source, point) for point in planned.points}
    fitted = fit_segment(source, planned, covariances)
    with seeded(4):
        queries = {
            layer.name: torch.randn(2, *layer.shape, dtype=torch.float64)
            for layer in source.coverage.layers
        }
        if roots:
            fitted = {
                name: replace(block, preconditioner=0.5 + torch.rand_like(block.eigenvalues))
                for name, block in fitted.items()
            }
    fitted = {name: block.scaled(scale) for name, block in fitted.items()}
    responses, solves = astra_responses(
        source,
        queries,
        replace(plan.members[0], segments=(planned,)),
        [fitted],
        settings=SolveSettings(**settings),
    )
    return case, queries, fitted, responses[0], solves[0]


def flat(vectors, order) -> Tensor:
    return torch.cat([vectors[name].flatten(1) for name in order], dim=1)


def test_adam_is_solved_in_the_preconditioned_frame():
    """P^½ (P^½ G P^½ + I/τ + wP)⁻¹ P^½ v, coupled decay and all."""
    case, queries, fitted, found, _ = solved(
        coupled=True, roots=True, tolerance=1e-13, max_iterations=300
    )
    order = list(queries)
    dense = DenseRun(case)
    exact = gauss_newton(dense, ("c1", "c2", "c3", "c4"), list(range(8)))
    root = torch.cat([fitted[name].preconditioner.flatten() for name in order])
    matrix = root.unsqueeze(1) * exact * root + torch.diag(1 / 4.0 + 0.3 * root.square())
    expected = root * torch.linalg.solve(matrix, (root * flat(queries, order)).T).T / 8
    assert_close(flat(found, order), expected)


def test_a_scale_of_the_ekfac_eigenvalues_changes_the_path_and_not_the_solution():
    exact = {"tolerance": 1e-13, "max_iterations": 300}
    _, queries, _, plain, _ = solved(**exact)
    _, _, _, scaled, _ = solved(scale=5.0, **exact)
    assert_close(flat(scaled, queries), flat(plain, queries))


def test_the_solve_says_how_well_it_did():
    _, _, _, _, solve = solved(tolerance=0.01)
    assert max(solve.residuals) <= 0.01
    assert min(solve.iterations) > 0
    assert solve.examples == 8


def test_a_sample_of_the_examples_makes_up_the_matrix_and_stays_the_same():
    runs = [solved(tolerance=1e-13, max_iterations=300, examples=count) for count in (5, 5, 8)]
    order = list(runs[0][1])
    first, again, everything = (flat(run[3], order) for run in runs)
    assert runs[0][4].examples == 5
    assert torch.equal(first, again)
    assert not torch.allclose(first, everything)


def test_a_layer_that_does_not_move_in_a_segment_has_no_response():
    case = tiny_case(ONE_STAGE)
    source = gradient_source(case, ClassificationTask())
    plan = case_plan(case, "astra_source", segments=1)
    (planned,) = plan.segments
    still = segment_filter("astra_source", step_mass=0.0, weight_decay=0.0)
    planned = replace(planned, layer_filters={"head": still})
    fitted = fit_segment(
        source, planned, {point.id: covariances_at(source, point) for point in planned.points}
    )
    queries = {
        layer.name: torch.ones(1, *layer.shape, dtype=torch.float64)
        for layer in source.coverage.layers
    }
    (found,), _ = astra_responses(
        source, queries, replace(plan.members[0], segments=(planned,)), [fitted]
    )
    assert not found["head"].any()
    assert found["first"].all()


def test_the_matrix_is_taken_at_the_mean_of_the_segments_weights():
    case = tiny_case(ONE_STAGE)
    two = case_plan(case, "astra_source", segments=2)
    assert two.segments[0].mean_point.checkpoints == ("c1", "c2")
    final = case_plan(case, "astra_influence", segments=2)
    assert final.segments[0].mean_point == final.members[0].final
