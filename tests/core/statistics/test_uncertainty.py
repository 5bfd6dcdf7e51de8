"""Errors against plain recomputation: checkpoint by checkpoint, query left out by query."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from sourcetrace.core.methods.score import BlockGradients, BlockScores, SegmentResponses
from sourcetrace.core.model.examples import Examples
from sourcetrace.core.plan.plan import AttributionPlan
from sourcetrace.core.responses.propagation import propagate
from sourcetrace.core.responses.queries import QueryGradients
from sourcetrace.core.statistics.uncertainty import (
    in_quadrature,
    sign_is_stable,
    standard_error_of_mean,
    standard_error_of_sum,
)
from sourcetrace.tasks import ClassificationTask
from tests.tiny import (
    Case,
    assert_close,
    case_plan,
    covariances_at,
    fit_segment,
    gradient_source,
    tiny_case,
)

TWO_STAGES = "abbaabab"


def values(*shape: int) -> Tensor:
    return torch.randn(
        *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape))
    )


def scored(
    case: Case, plan: AttributionPlan, *, batch_size: int = 3, alone: AttributionPlan | None = None
) -> BlockScores:
    """Return the scores of all examples.

    Args:
        case: The training run.
        plan: What fits the curvature.
        batch_size: Examples a block.
        alone: What is scored with that curvature; `plan` by default.
    """
    task = ClassificationTask()
    source = gradient_source(case, task, batch_size=batch_size)
    covariances = {point.id: covariances_at(source, point) for point in plan.points}
    curvatures = [fit_segment(source, planned, covariances) for planned in plan.segments]
    items = list(zip(case.query_images, case.query_labels, strict=True))
    queries = Examples(items, [f"query-{i}" for i in range(len(items))], task.collate)
    stacked = QueryGradients.of(source, plan.members[0], queries).dense()
    steps = {name: plan.members[0].layer_steps(name, curvatures) for name in stacked}
    by_layer = {name: propagate(one, *steps[name]) for name, one in stacked.items()}
    responses = [
        {name: found[index] for name, found in by_layer.items()}
        for index in range(len(plan.segments))
    ]
    member = (alone or plan).members[0]
    meet = SegmentResponses(member, responses, source.like)
    parts = [meet.scores(BlockGradients.of(source, member, block)) for block in source.blocks()]
    return BlockScores(
        torch.cat([part.shares for part in parts], dim=2),
        tuple(
            torch.cat(sums, dim=1)
            for sums in zip(*(part.checkpoint_sums for part in parts), strict=True)
        ),
        parts[0].self_influence,
    )


@pytest.mark.parametrize("stages", ["a" * 8, TWO_STAGES], ids=["one stage", "two stages"])
def test_the_sums_are_those_of_a_plan_with_each_checkpoint_alone(stages):
    case = tiny_case(stages)
    plan = case_plan(case, "source", segments=2)
    found = scored(case, plan)
    for index, planned in enumerate(plan.segments):
        for number, point in enumerate(planned.points):
            segments = list(plan.segments)
            segments[index] = replace(planned, points=(point,))
            member = replace(plan.members[0], segments=tuple(segments))
            alone = scored(case, plan, alone=AttributionPlan((member,)))
            assert_close(found.checkpoint_sums[index][number], alone.shares[index, :-1].sum(0))


def test_the_sums_average_to_the_scores_and_do_not_hear_the_mean_loss():
    case = tiny_case(TWO_STAGES)
    found = scored(case, case_plan(case, "source", segments=2))
    for sums, share in zip(found.checkpoint_sums, found.shares, strict=True):
        assert sums.shape == (2, 8)
        assert_close(sums.mean(0), share[:-1].sum(0))


@pytest.mark.parametrize("batch_size", [1, 5, 8])
def test_unchanged_by_the_batch_size(batch_size):
    case = tiny_case(TWO_STAGES)
    plan = case_plan(case, "source", segments=2)
    expected, found = scored(case, plan), scored(case, plan, batch_size=batch_size)
    for one, other in zip(found.checkpoint_sums, expected.checkpoint_sums, strict=True):
        assert_close(standard_error_of_mean(one), standard_error_of_mean(other))


@pytest.mark.parametrize("method", ["source", "fast_source"])
def test_one_point_a_segment_leaves_the_queries_alone(method):
    case = tiny_case(TWO_STAGES)
    found = scored(case, case_plan(case, method, segments=4 if method == "source" else 2))
    assert not any(standard_error_of_mean(sums).any() for sums in found.checkpoint_sums)
    assert standard_error_of_sum(found.shares.sum(0)[:-1]).all()


def test_the_error_of_a_mean_is_the_textbooks():
    given = values(4, 3)
    deviations = given - given.mean(0)
    assert_close(standard_error_of_mean(given), (deviations.square().sum(0) / 3 / 4).sqrt())


def test_the_error_of_a_sum_is_the_jackknifes():
    given = values(7, 3)
    left_out = torch.stack([given[torch.arange(7) != i].sum(0) * 7 / 6 for i in range(7)])
    jackknife = (6 / 7 * (left_out - left_out.mean(0)).square().sum(0)).sqrt()
    assert_close(standard_error_of_sum(given), jackknife)


def test_the_error_of_a_sum_is_the_bootstraps():
    given = values(50, 1)
    draws = torch.randint(50, (20_000, 50), generator=torch.Generator().manual_seed(1))
    bootstrap = given[:, 0][draws].sum(1).std()
    assert_close(standard_error_of_sum(given)[0], bootstrap, tolerance=0.02)


def test_one_value_has_no_error():
    assert standard_error_of_mean(values(1, 3)).tolist() == [0.0] * 3
    assert standard_error_of_sum(values(1, 3)).tolist() == [0.0] * 3


def test_errors_add_in_quadrature_and_decide_on_the_sign():
    errors = in_quadrature([torch.tensor([3.0, 0.0, 1.0]), torch.tensor([4.0, 0.0, 0.0])])
    assert errors.tolist() == [5.0, 0.0, 1.0]
    stable = sign_is_stable(torch.tensor([-10.1, 0.0, 2.0]), errors)
    assert stable.tolist() == [True, False, False]
