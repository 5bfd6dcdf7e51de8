"""A batch is what fits: a power of two within bounds, smaller where memory is."""

import gc
from dataclasses import replace

import pytest
import torch

from sourcetrace.core.curvature.covariance import RunningCovariances
from sourcetrace.core.engine.samples import probe_point
from sourcetrace.core.plan import batch_size
from sourcetrace.core.plan.batch_size import LARGEST
from sourcetrace.tasks import ClassificationTask
from tests.tiny import KeepsNothing, case_plan, gradient_source, tiny_case, wide_case


def chosen(engine, plan, *, queries=3, free=0):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch_size, "free_memory", lambda _: free)
        return batch_size.choose_batch_size(engine, plan, queries=queries)


def bytes_of_example(engine, plan, *, queries):
    return chosen(engine, plan, queries=queries).bytes_per_example


def prepared(stages, make_case=tiny_case):
    case = make_case(stages)
    engine = gradient_source(case, ClassificationTask(), cache=KeepsNothing())
    return engine, case_plan(case, "source", segments=2)


@pytest.mark.parametrize(("free", "size"), [(0, 1), (2**50, 128)])
def test_the_choice_is_within_its_bounds_and_leaves_several_blocks(free, size):
    engine, plan = prepared(600 * "a")
    assert chosen(engine, plan, free=free).examples == size


def test_no_batch_is_larger_than_the_largest():
    engine, plan = prepared(16 * "a")
    engine.training = replace(engine.training, ids=["one"] * 10**6)
    engine.training.items.extend(engine.training.items * 10)
    choice = chosen(engine, replace(plan), free=2**60)
    assert choice.examples == LARGEST


def test_the_choice_is_a_power_of_two_whose_batch_fits():
    engine, plan = prepared(4096 * "a")
    sizes = []
    for free in (2**n for n in range(18, 30)):
        choice = chosen(engine, plan, free=free)
        assert choice.examples.bit_count() == 1
        assert choice.examples == 1 or choice.examples * choice.bytes_per_example < free
        sizes.append(choice.examples)
    assert sizes == sorted(sizes)
    assert len(set(sizes)) > 3


@pytest.mark.parametrize("make_case", [tiny_case, wide_case])
def test_an_example_takes_more_than_the_gradients_that_are_kept_of_it(make_case):
    engine, plan = prepared(16 * "a", make_case)
    probe = probe_point(engine, plan.points[-1])
    counted = bytes_of_example(engine, plan, queries=3)
    assert counted > probe.bytes_per_example


def test_more_queries_take_more():
    engine, plan = prepared(16 * "a")
    few, many = (bytes_of_example(engine, plan, queries=count) for count in (1, 10**6))
    # Scores of two segments in float64.
    assert many == pytest.approx(2 * 10**6 * 8, rel=1e-3)
    assert few < many / 100


def test_more_draws_of_sampled_labels_take_more():
    """A batch holds the output gradients of all of them at once."""
    engine, plan = prepared(16 * "a", wide_case)
    one = bytes_of_example(engine, plan, queries=1)
    sampled = probe_point(engine, plan.points[-1]).sampled.values()
    gradients = sum(layer.output_gradients[0].nbytes for layer in sampled)
    engine.draws = 8
    assert bytes_of_example(engine, plan, queries=1) >= one + 7 * gradients


def test_the_weights_are_no_part_of_an_example():
    engine, plan = prepared(16 * "a", wide_case)
    weights = sum(
        p.numel() * p.element_size() for p in engine.model_at(plan.points[0]).parameters()
    )
    assert bytes_of_example(engine, plan, queries=1) < weights / 2


def test_nothing_grows_with_the_examples():
    """Where gradients are kept nowhere, a pass over many holds what one over few does."""
    few, many = (held_in_passes(count) for count in (96, 288))
    assert 0 < many < 1.02 * few  # rows that wait: how many positions count differs by the block


def held_in_passes(count):
    """Return the most bytes in tensors that are there between two blocks and were not before."""
    case = tiny_case("a" * count)
    engine = gradient_source(case, ClassificationTask(), batch_size=16, cache=KeepsNothing())
    point = case_plan(case, "source", segments=1).points[0]
    running, found, most = RunningCovariances(), None, 0
    engine.model_at(point)
    gc.collect()
    gc.freeze()  # what is there before is not looked at again
    for block in engine.blocks():
        engine.gradients(point, block)
        found = engine.extract(point, block)
        running.add(found.covariances)
        most = max(most, sum(one.nbytes for one in tensors()))
    gc.unfreeze()
    assert running.sums()["head"].examples == count
    assert len(found.gradients["head"]) == 16
    return most


def tensors():
    gc.collect()
    return [one for one in gc.get_objects() if issubclass(type(one), torch.Tensor)]
