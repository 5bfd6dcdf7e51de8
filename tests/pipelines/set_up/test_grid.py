"""How work is cut is chosen once; units are as long as wanted, in whole batches."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sourcetrace.errors import InputError
from sourcetrace.parameters import GradientParameters
from sourcetrace.pipelines.set_up.grid import (
    Grid,
    grid_for,
    grid_key,
    kept_grids,
    last_batch_size,
    range_size,
)


@given(
    batch=st.integers(1, 1024),
    seconds=st.floats(1e-7, 1e3),
    points=st.integers(1, 500),
    wanted=st.floats(1, 1e4),
)
def test_a_range_is_about_as_long_as_wanted(batch, seconds, points, wanted):
    size = range_size(batch, seconds, points=points, wanted=wanted)
    batches, rest = divmod(size, batch)
    assert rest == 0
    assert batches.bit_count() == 1
    longest = min(wanted, 600 / points)
    if batches > 1:
        assert longest / 2 * 0.999 < size * seconds <= longest * 1.001
    else:
        assert 2 * batch * seconds > longest * 0.999


def test_ranges_are_whole_batches_and_all_examples():
    grid = Grid(4, 8)
    ranges = grid.ranges(22)
    assert [(one.start, one.stop) for one in ranges] == [(0, 8), (8, 16), (16, 22)]
    assert [(one.start, one.stop) for one in grid.blocks(ranges[-1])] == [(16, 20), (20, 22)]


def refused(folder, grid):
    """Choose a grid for an audit that is refused then."""
    with kept_grids(folder) as grids:
        grids["refused"] = grid
        raise InputError


def test_the_first_choice_stands_and_others_stand_beside_it(tmp_path):
    assert last_batch_size(tmp_path) is None
    first, second = Grid(4, 8, 2**30, "disk"), Grid(16, 16)
    with kept_grids(tmp_path) as grids:
        assert not grids
        grids["one"] = first
    with pytest.raises(InputError):
        refused(tmp_path, second)
    with kept_grids(tmp_path) as grids:
        assert grids == {"one": first}
        grids["other"] = second
    with kept_grids(tmp_path) as grids:
        assert grids == {"one": first, "other": second}
    assert last_batch_size(tmp_path) == 16


def test_about_as_many_examples_have_the_same_grid():
    grids = {"a-100": Grid(4, 8, examples=100), "a-120": Grid(8, 8, examples=120)}
    grids["b-100"] = Grid(16, 16, examples=100)
    assert grid_for(grids, "a", 99) == grids["a-100"]
    assert grid_for(grids, "a", 125) == grids["a-120"]
    assert grid_for(grids, "b", 99) == grids["b-100"]
    assert grid_for(grids, "b", 200) is grid_for(grids, "c", 100) is None


def test_a_grid_is_of_the_data_and_of_what_batches_go_by():
    cpu, given_parameters = torch.device("cpu"), GradientParameters()
    audit = {"code": "a", "task": "b", "data": "c", "checkpoints": "d", "gradients": "e"}
    key = grid_key(audit, cpu, given_parameters)
    for name in audit:
        other = grid_key(audit | {name: "other"}, cpu, given_parameters)
        assert (other == key) == (name in ("checkpoints", "gradients"))
    assert grid_key(audit, torch.device("meta"), given_parameters) != key
    for change in ({"batch_size": 4}, {"memory_gib": 1.0}):
        assert grid_key(audit, cpu, given_parameters.model_copy(update=change)) != key
    for change in ({"cache": "disk"}, {"disk_budget_gib": 1.0}):
        assert grid_key(audit, cpu, given_parameters.model_copy(update=change)) == key
