"""What is said of a run's cost beforehand is, by the layers' shapes, what torch counts later."""

from dataclasses import replace

import pytest
import torch
from benchmarks.multiplications import MultiplicationCounter

from sourcetrace.core.engine.gradient_engine import GradientEngine
from sourcetrace.core.engine.samples import TimedProbe, one_thread_gain, probe_point
from sourcetrace.core.methods.astra import SolveSettings
from sourcetrace.core.methods.cost import RunCost
from sourcetrace.core.methods.score import BlockGradients, SegmentResponses
from sourcetrace.core.methods.scorers import FrameScorer
from sourcetrace.core.methods.self_influence import SelfInfluence
from sourcetrace.core.model.examples import Block
from sourcetrace.core.plan.plan import AttributionPlan
from sourcetrace.tasks import ClassificationTask
from tests.core.methods.test_transformer import transformer_case
from tests.tiny import (
    KeepsEverything,
    KeepsNothing,
    bare_case,
    case_plan,
    covariances_at,
    fit_segment,
    gradient_source,
    tiny_case,
    wide_case,
)

CASES = {"convolutions": tiny_case, "transformer": transformer_case, "linear layers": wide_case}


def estimated(
    make_case, *, queries: int = 5, segments: int = 2, recomputed: bool = False, solve=None
) -> tuple[GradientEngine, AttributionPlan, RunCost]:
    case = make_case()
    engine = gradient_source(case, ClassificationTask())
    plan = case_plan(case, "source", segments=segments)
    probe = TimedProbe.of(engine, plan.points[-1])
    # At one multiplication a second, a second is one.
    cost = RunCost.of(
        engine, plan, probe, queries=queries, recomputed=recomputed, rate=1.0, solve=solve
    )
    return engine, plan, cost


def stage(cost: RunCost, name: str):
    (found,) = [one for one in cost.stages if one.name == name]
    return found


@pytest.mark.parametrize("make_case", CASES.values(), ids=CASES)
def test_the_fit_takes_what_was_estimated(make_case):
    engine, plan, cost = estimated(make_case)
    covariances = {point.id: covariances_at(engine, point) for point in plan.points}
    with MultiplicationCounter() as counter:  # the gradients are in the cache
        for planned in plan.segments:
            fit_segment(engine, planned, covariances)
    parts = ("eigendecompositions", "corrected_eigenvalues")
    assert counter.total == sum(stage(cost, name).seconds for name in parts)


def test_passes_and_covariances_take_what_the_probe_took():
    case = tiny_case("a" * 8)
    engine = gradient_source(case, ClassificationTask())
    plan = case_plan(case, "source", segments=2)
    found = replace(TimedProbe.of(engine, plan.points[-1]), passes=3.0, covariances=0.5)
    cost = RunCost.of(engine, plan, found, queries=5, recomputed=True, rate=1.0)
    visits = 8 * 4
    # Queries: a forward pass at every point, then three; again: one backward pass, for the fit and
    # for the scores.
    assert stage(cost, "passes").seconds == pytest.approx(3 * visits + 4 * 5)
    assert stage(cost, "passes_to_fit").seconds == pytest.approx(2 * visits)
    assert stage(cost, "passes_to_score").seconds == pytest.approx(3 * 5 + 2 * visits)
    assert stage(cost, "covariances").seconds == pytest.approx(0.5 * visits)


@pytest.mark.parametrize("make_case", CASES.values(), ids=CASES)
def test_scores_and_self_influence_take_at_most_what_was_estimated(make_case):
    engine, plan, cost = estimated(make_case)
    covariances = {point.id: covariances_at(engine, point) for point in plan.points}
    fitted = [fit_segment(engine, planned, covariances) for planned in plan.segments]
    member, layers = plan.members[0], [layer.name for layer in engine.coverage.layers]
    scorer = SelfInfluence.of(member, fitted, layers, like=engine.like)
    blocks = [BlockGradients.of(engine, member, block) for block in engine.blocks()]
    with MultiplicationCounter() as counter:
        for gradients in blocks:
            scorer.scores(gradients)
    bound = stage(cost, "self_influence")
    assert 0 < counter.total <= bound.seconds
    assert bound.at_most
    # Five queries and the mean loss a segment, and the sum of the queries a checkpoint.
    rows = sum((6 + len(one.points)) * len(one.examples) for one in plan.segments)
    parameters = sum(layer.size for layer in engine.coverage.layers)
    assert stage(cost, "scoring").seconds == rows * parameters


def test_measuring_the_scale_takes_sampled_gradients_and_their_products_with_queries():
    case = tiny_case("a" * 8)
    engine = gradient_source(case, ClassificationTask())
    plan = case_plan(case, "scaled_source", segments=2)
    found = replace(TimedProbe.of(engine, plan.points[-1]), passes=3.0)
    cost = RunCost.of(
        engine, plan, found, queries=5, recomputed=True, rate=float("inf"), scales=True
    )
    assert stage(cost, "curvature_scales").seconds == pytest.approx(2 * 8 * 4)


def test_what_is_kept_is_what_the_cache_holds():
    case = tiny_case()
    cache = KeepsEverything()
    engine = gradient_source(case, ClassificationTask(), cache=cache)
    plan = case_plan(case, "source", segments=2)
    probe = TimedProbe.of(engine, plan.points[-1])
    assert not cache.kept
    cost = RunCost.of(engine, plan, probe, queries=1, recomputed=False, rate=1.0)
    for point in plan.points:
        for block in engine.blocks():
            if len(point.rows(block)):
                engine.extract(point, block)
    tensors = [one for kept in cache.kept.values() for one in kept.values()]
    assert stage(cost, "passes").kept_bytes == sum(one.nbytes for one in tensors)


@pytest.mark.parametrize("make_case", [tiny_case, bare_case])
@pytest.mark.parametrize("make_cache", [KeepsEverything, KeepsNothing])
@pytest.mark.parametrize("draws", [1, 4])
def test_a_run_makes_the_passes_that_were_said(make_cache, make_case, draws):
    case = make_case("a" * 8)
    engine = gradient_source(case, ClassificationTask(), cache=make_cache())
    engine.draws = draws
    plan = case_plan(case, "source", segments=2)
    probe = TimedProbe.of(engine, plan.points[-1])
    recomputed = make_cache is KeepsNothing
    cost = RunCost.of(engine, plan, probe, queries=0, recomputed=recomputed, rate=1.0)
    engine.passes.forward = engine.passes.backward = 0
    covariances = {point.id: covariances_at(engine, point) for point in plan.points}
    fitted = [fit_segment(engine, planned, covariances) for planned in plan.segments]
    scorer = FrameScorer(engine, plan.members[0], fitted, zero_responses(engine, plan))
    for block in engine.blocks():
        scorer.scores(block)
    assert (engine.passes.forward, engine.passes.backward) == (cost.forward, cost.backward)
    assert (stage(cost, "passes").kept_bytes == 0) == recomputed


def zero_responses(engine: GradientEngine, plan: AttributionPlan):
    one = {layer.name: torch.zeros(2, *layer.shape).double() for layer in engine.coverage.layers}
    return SegmentResponses(plan.members[0], [one for _ in plan.segments], engine.like)


def test_exact_solves_are_counted_where_there_are_any():
    *_, plain = estimated(tiny_case)
    *_, solved = estimated(
        tiny_case, solve=SolveSettings(tolerance=0.1, max_iterations=7, examples=3)
    )
    assert not [one for one in plain.stages if one.name == "exact_solves"]
    assert stage(solved, "exact_solves").seconds > 0
    assert len(solved.stages) == len(plain.stages) + 1


def test_the_probe_is_one_batch_that_the_cache_never_sees():
    engine = gradient_source(tiny_case(), ClassificationTask(), batch_size=1)
    point = case_plan(tiny_case(), "source", segments=1).points[-1]
    assert len(probe_point(engine, point).signals.examples) == 8
    assert torch.equal(point.rows(Block(0, 8)), torch.arange(8))


@pytest.mark.parametrize("threads", [1, 2])
def test_one_thread_is_timed_and_the_number_left_as_it_was(threads):
    engine = gradient_source(tiny_case(), ClassificationTask(), batch_size=1)
    point = case_plan(tiny_case(), "source", segments=1).points[-1]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        gain = one_thread_gain(engine, point)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert gain == 1 if threads == 1 else gain > 0
