"""Examples read in blocks, and random draws that belong to them."""

from typing import NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sourcetrace.core.machine.nested import map_tensors
from sourcetrace.core.model.examples import Block, EvaluationPoint, Examples, example_seed
from sourcetrace.core.model.objective import ExampleGenerator, signs, uniform
from tests.tiny import CPU


def examples(count: int) -> Examples:
    return Examples([10 * i for i in range(count)], [f"id-{i}" for i in range(count)], torch.tensor)


@pytest.mark.parametrize(("count", "size"), [(7, 3), (6, 3), (2, 5), (0, 4)])
def test_blocks_cover_every_example_once(count, size):
    blocks = list(examples(count).blocks(size))
    assert [i for block in blocks for i in range(block.start, block.stop)] == list(range(count))
    assert all(0 < len(block) <= size for block in blocks)


def test_a_batch_holds_the_examples_asked_for():
    assert examples(5).batch([3, 1], CPU).tolist() == [30, 10]
    assert len(Block(2, 5)) == 3


def test_a_seed_depends_on_the_seed_the_purpose_and_the_name():
    seeds = {
        example_seed(seed, purpose, name)
        for seed in (0, 1)
        for purpose in ("c1", "c2")
        for name in ("id-0", "id-1", "id-2")
    }
    assert len(seeds) == 12
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert examples(3).seeds([2, 0], seed=1, purpose="c2") == [
        example_seed(1, "c2", "id-2"),
        example_seed(1, "c2", "id-0"),
    ]


def test_a_batch_keeps_its_shape_on_the_way_to_a_device():
    class Pair(NamedTuple):
        left: torch.Tensor
        right: str

    batch = {"pair": Pair(torch.ones(1), "text"), "list": [torch.zeros(2)], "tuple": (3, None)}
    moved = map_tensors(batch, lambda tensor: tensor.to("meta"))
    assert moved["pair"].left.device.type == "meta"
    assert moved["pair"].right == "text"
    assert moved["list"][0].device.type == "meta"
    assert moved["tuple"] == (3, None)


def draws(seeds: list[int], *shape: int) -> torch.Tensor:
    generator = ExampleGenerator.for_examples(seeds)
    return uniform(generator, [len(seeds), *shape], like=torch.zeros(1, dtype=torch.float64))


@pytest.mark.parametrize("shape", [(), (1,), (4, 2)])
def test_an_examples_draws_do_not_depend_on_its_batch(shape):
    whole = draws([11, 22, 33], *shape)
    assert torch.equal(draws([33, 11], *shape), whole[[2, 0]])
    assert torch.equal(draws([22], *shape), whole[[1]])
    assert whole.unique().numel() == whole.numel()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_draws_stay_below_1_and_spread_evenly(dtype):
    found = uniform(torch.Generator().manual_seed(0), [20_000], like=torch.zeros(1, dtype=dtype))
    assert found.dtype == dtype
    assert found.min() >= 0
    assert found.max() < 1
    # Standard error of the mean: 0.002.
    assert found.double().mean().item() == pytest.approx(0.5, abs=0.01)
    assert found.double().var().item() == pytest.approx(1 / 12, abs=0.005)


def test_an_ordinary_generator_draws_a_stream():
    like = torch.zeros(1, dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    first, second = (uniform(generator, [3], like=like) for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.equal(uniform(generator.manual_seed(1), [3], like=like), first)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_signs_are_as_often_plus_as_minus(dtype):
    like = torch.zeros(1, dtype=dtype)
    found = signs(torch.Generator().manual_seed(0), [10_000, 2], like=like)
    assert found.dtype == dtype
    assert set(found.unique().tolist()) == {-1.0, 1.0}
    # Three standard errors; the last one of the two columns' product: they are independent.
    assert found.double().mean(0).abs().max() < 0.03
    assert found.double().prod(1).mean().abs() < 0.03


def test_an_examples_signs_do_not_depend_on_its_batch():
    like = torch.zeros(1, dtype=torch.float64)
    whole = signs(ExampleGenerator.for_examples([11, 22, 33]), [3, 20], like=like)
    some = signs(ExampleGenerator.for_examples([33, 11]), [2, 20], like=like)
    assert torch.equal(some, whole[[2, 0]])


def test_a_second_call_draws_anew():
    """Two heads with the same signs would have a curvature between them."""
    like = torch.zeros(1, dtype=torch.float64)
    generator = ExampleGenerator.for_examples(range(1000, 9000, 2))
    first, second = (signs(generator, [4000], like=like) for _ in range(2))
    assert (first * second).mean().abs() < 0.05
    again = ExampleGenerator.for_examples([1002, 1000])
    assert torch.equal(signs(again, [2], like=like), first[[1, 0]])
    assert torch.equal(signs(again, [2], like=like), second[[1, 0]])


@pytest.mark.parametrize(("draws", "parts"), [(1, [1]), (4, [3]), (4, [2, 2]), (16, [5, 4, 7])])
def test_as_many_draws_as_signs_are_the_expectation(draws, parts):
    like = torch.zeros(1, dtype=torch.float64)
    columns = []
    for draw in range(draws):
        generator = ExampleGenerator.for_examples([11, 22], draw=draw)
        columns.append(torch.cat([signs(generator, [2, n], like=like) for n in parts], 1))
    noise = torch.stack(columns)
    assert torch.equal(noise.abs(), torch.ones_like(noise))
    identity = torch.eye(sum(parts), dtype=torch.float64).expand(2, -1, -1)
    assert torch.equal(torch.einsum("knr,kns->nrs", noise, noise) / draws, identity)


def test_other_draws_are_other_labels():
    like = torch.zeros(1, dtype=torch.float64)
    first, second = (
        uniform(ExampleGenerator.for_examples([11, 22], draw=draw), [2, 3], like=like)
        for draw in range(2)
    )
    assert (first - second).abs().min() > 0


def test_what_is_drawn_depends_on_names_and_seed_alone():
    whole = examples(40)
    turned = Examples(whole.items[::-1], whole.ids[::-1], whole.collate)
    everything = torch.arange(40)

    def names(of: Examples, count: int, seed: int) -> set[str]:
        found = of.drawn(everything, count, seed=seed, purpose="curvature")
        assert found.tolist() == sorted(set(found.tolist()))
        return {of.ids[number] for number in found.tolist()}

    assert len(names(whole, 12, 0)) == 12
    assert names(whole, 12, 0) == names(turned, 12, 0) != names(whole, 12, 1)
    assert names(whole, 12, 0) < names(whole, 13, 0)  # more keep those before
    assert names(whole, 99, 0) == set(whole.ids)


def test_drawn_a_few_at_a_time_they_are_the_same(monkeypatch):
    whole, among = examples(40), torch.arange(1, 40, 2)
    expected = whole.drawn(among, 7, seed=3, purpose="curvature")
    monkeypatch.setattr("sourcetrace.core.model.examples._DRAWN_AT_ONCE", 3)
    assert torch.equal(whole.drawn(among, 7, seed=3, purpose="curvature"), expected)


def test_without_nobody_no_name_is_copied():
    whole = examples(4)
    assert whole.without(()) is whole


numbers = st.sets(st.integers(0, 40), max_size=20).map(sorted)


@given(examples=numbers, stage=numbers, start=st.integers(0, 40), length=st.integers(0, 41))
def test_rows_and_stage_are_what_comparing_with_every_number_gives(examples, stage, start, length):
    point = EvaluationPoint("p", ("p",), torch.tensor(examples).long(), torch.tensor(stage).long())
    rows = point.rows(Block(start, start + length))
    assert rows.tolist() == [one for one in examples if start <= one < start + length]
    assert point.in_curvature(rows).tolist() == [one in stage for one in rows.tolist()]
