"""The walk against products of matrix exponentials, and against training itself, unrolled."""

import pytest
import torch
from torch import Tensor

from sourcetrace.core.curvature.blocks import CurvatureBlock, EigenBasis
from sourcetrace.core.gradients.factored import FactoredGradient
from sourcetrace.core.gradients.per_example import DenseGradient
from sourcetrace.core.plan.filters import SegmentFilter
from sourcetrace.core.responses import propagation
from sourcetrace.core.responses.propagation import SegmentStep, propagate, summed_measurements
from tests.oracles.scores import DenseSegment, source_scores
from tests.oracles.unrolled import QuadraticPhase, removal_effects
from tests.tiny import assert_close, seeded, segment_filter

SIZE = 5


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def exact_block(matrix: Tensor) -> CurvatureBlock:
    """Return a block that stands for any symmetric matrix: one output, its own eigenbasis."""
    eigenvalues, vectors = torch.linalg.eigh(matrix)
    one = torch.ones(1, 1, 1, dtype=matrix.dtype)
    return CurvatureBlock(EigenBasis(vectors.unsqueeze(0), one), eigenvalues.reshape(1, 1, -1))


def positive(rank: int) -> Tensor:
    root = normal(SIZE, rank)
    return root @ root.T / rank


def walked_scores(
    queries: Tensor, segments: list[DenseSegment], *, curvatures: list[Tensor] | None = None
) -> Tensor:
    """Return the scores of the code under test, [L, Q, N]."""
    curvatures = [segment.curvature for segment in segments] if curvatures is None else curvatures
    responses = propagate(
        queries.reshape(-1, 1, 1, SIZE),
        [
            segment_filter("source", step_mass=one.step_mass, weight_decay=one.weight_decay)
            for one in segments
        ],
        [exact_block(matrix) for matrix in curvatures],
        [segment.examples for segment in segments],
    )
    return torch.stack(
        [
            DenseGradient(one.gradients.reshape(-1, 1, 1, SIZE)).products(response)
            for response, one in zip(responses, segments, strict=True)
        ]
    )


@pytest.mark.parametrize("weight_decay", [0.0, 0.2])
@pytest.mark.parametrize("ranks", [(5,), (5, 3), (5, 2, 4)], ids=["one", "two", "three"])
def test_segments_of_different_eigenbases_equal_the_matrix_exponentials(ranks, weight_decay):
    with seeded(31):
        queries = normal(3, SIZE)
        segments = [
            DenseSegment(
                step_mass=0.5 + number,
                weight_decay=weight_decay,
                curvature=positive(rank),
                gradients=normal(4, SIZE),
                examples=4 + number,
            )
            for number, rank in enumerate(ranks)
        ]
    found = walked_scores(queries, segments)
    expected = source_scores(queries, segments)
    for number in range(len(segments)):
        assert_close(found[number], expected[number])


def test_the_order_of_segments_matters():
    """Guards the test above: with matrices that commute a wrong order would pass it."""
    with seeded(31):
        queries = normal(3, SIZE)
        first, second = (
            DenseSegment(2.0, 0.0, positive(rank), normal(4, SIZE), 4) for rank in (5, 3)
        )
    forwards = source_scores(queries, [first, second]).sum(0)
    backwards = source_scores(queries, [second, first]).sum(0)
    assert (forwards - backwards).abs().max() > 0.01 * forwards.abs().max()


def phase(examples: int, *, steps: int, learning_rate: float) -> QuadraticPhase:
    """Return examples with different curvatures, some flat in most directions."""
    roots = normal(examples, SIZE, 2)
    slopes = normal(examples, SIZE)
    return QuadraticPhase(
        curvatures=roots @ roots.mT,
        slopes=slopes - slopes.mean(0),
        steps=steps,
        learning_rate=learning_rate,
    )


def training(
    learning_rate: float, *, step_masses: tuple[float, ...], momentum: float = 0.0
) -> list[QuadraticPhase]:
    """Return phases that cover these step masses in steps of this learning rate."""
    effective = learning_rate / (1 - momentum)
    with seeded(32):
        return [
            phase(6, steps=round(mass / effective), learning_rate=learning_rate)
            for mass in step_masses
        ]


def relative_error(
    learning_rate: float,
    *,
    step_masses: tuple[float, ...],
    momentum: float = 0.0,
    weight_decay: float = 0.0,
) -> float:
    """Return how far Source is off unrolled training, as a share of the largest effect."""
    phases = training(learning_rate, step_masses=step_masses, momentum=momentum)
    with seeded(33):
        center, measured = normal(SIZE), normal(SIZE)
    unrolled = removal_effects(
        phases, center, measured, momentum=momentum, weight_decay=weight_decay
    )
    segments = [
        DenseSegment(
            step_mass=mass,
            weight_decay=weight_decay,
            curvature=one.curvatures.mean(0),
            gradients=-one.slopes,
            examples=len(one.slopes),
        )
        for one, mass in zip(phases, step_masses, strict=True)
    ]
    found = walked_scores(measured.unsqueeze(0), segments)
    errors = [float((found[i, 0] - one).abs().max()) for i, one in enumerate(unrolled)]
    return max(errors) / max(float(one.abs().max()) for one in unrolled)


@pytest.mark.parametrize("weight_decay", [0.0, 0.4])
def test_the_walk_equals_unrolled_gradient_descent_exactly_with_its_own_filters(weight_decay):
    """K steps of rate η leave (1 - ησ)^K and respond with the sum of that series."""
    rate = 0.05
    phases = training(rate, step_masses=(1.0, 0.6))
    with seeded(33):
        center, measured = normal(SIZE), normal(SIZE)
    unrolled = removal_effects(phases, center, measured, weight_decay=weight_decay)

    def discrete(steps: int) -> SegmentFilter:
        def left(sigma: Tensor) -> Tensor:
            return (1 - rate * (sigma + weight_decay)) ** steps

        return SegmentFilter(
            lambda sigma: (1 - left(sigma)) / (sigma + weight_decay), left, uses_curvature=True
        )

    responses = propagate(
        measured.reshape(1, 1, 1, SIZE),
        [discrete(one.steps) for one in phases],
        [exact_block(one.curvatures.mean(0)) for one in phases],
        [len(one.slopes) for one in phases],
    )
    for response, one, expected in zip(responses, phases, unrolled, strict=True):
        assert_close(-one.slopes @ response.flatten(), expected)


@pytest.mark.parametrize("weight_decay", [0.0, 0.4])
@pytest.mark.parametrize("step_masses", [(2.0,), (1.0, 0.6)], ids=["one phase", "two phases"])
def test_equals_unrolled_gradient_descent_to_first_order_in_the_learning_rate(
    step_masses, weight_decay
):
    """The flow is exact, so the error is that of the steps: it halves with the learning rate."""
    errors = [
        relative_error(rate, step_masses=step_masses, weight_decay=weight_decay)
        for rate in (0.02, 0.01, 0.005)
    ]
    assert errors[-1] < 0.01
    for coarse, fine in zip(errors, errors[1:], strict=False):
        assert coarse / fine == pytest.approx(2.0, rel=0.05)


def test_leaving_weight_decay_out_is_seen():
    """Guards the test above: the decay moves the scores by far more than the steps do."""
    with seeded(32):
        one = phase(6, steps=1, learning_rate=0.1)
        measured = normal(1, SIZE)
    scores = [
        walked_scores(measured, [DenseSegment(2.0, decay, one.curvatures.mean(0), -one.slopes, 6)])
        for decay in (0.0, 0.4)
    ]
    assert (scores[0] - scores[1]).abs().max() > 0.1 * scores[0].abs().max()


@pytest.mark.parametrize("momentum", [0.5, 0.9])
def test_heavy_ball_momentum_multiplies_the_step_mass(momentum):
    """Unrolled heavy-ball, within 2 % at a step mass of 4 and an effective rate of 0.004.

    What is left is the start, 1/(1-β) steps in which the velocity builds up, and the step
    size; both halve with the learning rate.
    """
    errors = [
        relative_error(rate * (1 - momentum), step_masses=(4.0,), momentum=momentum)
        for rate in (0.008, 0.004)
    ]
    assert errors[1] < 0.02
    assert errors[0] / errors[1] == pytest.approx(2.0, rel=0.1)


def test_removal_raises_the_loss_of_the_example_removed():
    """The sign: with its own loss as the measurement, an example helps and scores above 0."""
    with seeded(34):
        one = phase(6, steps=40, learning_rate=0.02)
    gradients = -one.slopes
    segment = DenseSegment(0.8, 0.0, one.curvatures.mean(0), gradients, 6)
    assert (walked_scores(gradients, [segment])[0].diagonal() > 0).all()


def test_the_sum_of_the_measurements_leaves_the_mean_loss_out():
    with seeded(35):
        measured, mean_loss = (
            FactoredGradient(normal(3, 2, 2, 4), normal(3, 2, 2, 5)),
            normal(1, 2, 5, 4),
        )
    expected = measured.dense().sum(0, keepdim=True)
    for response in ((measured, mean_loss), torch.cat([measured.dense(), mean_loss])):
        assert_close(summed_measurements(response, torch.float64), expected)


def test_a_segment_without_curvature_scales_the_query():
    with seeded(36):
        queries = normal(2, 1, 3, 4)
    filters = [segment_filter("tracin", step_mass=mass, weight_decay=0.0) for mass in (0.5, 2.0)]
    first, second = propagate(queries, filters, [None, None], [10, 4])
    assert_close(first, queries * 0.5 / 10, tolerance=1e-15)
    assert_close(second, queries * 2.0 / 4, tolerance=1e-15)


def test_the_walk_leaves_the_queries_alone():
    with seeded(37):
        queries = normal(2, 1, 1, SIZE)
        blocks = [exact_block(positive(3)), exact_block(positive(3))]
    before = queries.clone()
    filters = [segment_filter("source", step_mass=1.0, weight_decay=0.0)] * 2
    propagate(queries, filters, blocks, [3, 3])
    assert torch.equal(queries, before)


def test_a_large_layer_is_filtered_some_outputs_at_a_time_with_the_same_numbers(monkeypatch):
    with seeded(9):
        block = CurvatureBlock(EigenBasis(None, None), torch.rand(2, 9, 3), torch.rand(2, 9, 3))
        queries = torch.randn(4, 2, 9, 3)
    filters = segment_filter("source", step_mass=2.0, weight_decay=0.1)
    whole = SegmentStep(queries, filters, block)
    expected = whole.response(), whole.propagated()
    monkeypatch.setattr(propagation, "AT_ONCE", 4)
    monkeypatch.setattr(propagation, "_OUTPUTS", 4)
    assert torch.equal(whole.response(), expected[0])
    assert torch.equal(whole.propagated(), expected[1])
