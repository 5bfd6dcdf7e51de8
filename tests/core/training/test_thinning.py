"""Which checkpoints are kept of many, and what they then stand for."""

from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sourcetrace.core.training.optimizer_settings import ParameterGroup
from sourcetrace.core.training.schedules import CheckpointRates
from sourcetrace.core.training.segments import CheckpointRecord
from sourcetrace.core.training.thinning import joined, kept_places, must_keep


def cost(masses, places):
    """Return Σ of the squared masses that the kept ones stand for, without the first's own."""
    return sum(sum(masses[a + 1 : b + 1]) ** 2 for a, b in pairwise(places))


MASSES = st.lists(st.floats(0, 10), min_size=1, max_size=9)


@given(st.data(), MASSES)
def test_no_other_choice_of_as_many_is_more_even(data, masses):
    last = len(masses) - 1
    must = {0, last} | data.draw(st.sets(st.integers(0, last), max_size=3))
    at_most = data.draw(st.integers(len(must), 10))
    found = kept_places(masses, must, at_most)
    assert found == sorted(set(found))
    assert must <= set(found)
    assert len(found) <= at_most
    others = [
        sorted({*must, *more})
        for more in combinations(range(last + 1), min(at_most, last + 1) - len(must))
    ]
    assert cost(masses, found) <= min(cost(masses, one) for one in others) * (1 + 1e-9) + 1e-12


@given(MASSES)
def test_all_are_kept_where_there_is_room_and_every_one_moved(masses):
    masses = [mass + 0.1 for mass in masses]
    must = {0, len(masses) - 1}
    assert kept_places(masses, must, len(masses) + 1) == list(range(len(masses)))


def test_even_masses_are_kept_evenly():
    assert kept_places([1.0] * 13, {0, 12}, 5) == [0, 3, 6, 9, 12]
    # A rate that has fallen leaves the end with few.
    assert kept_places([8.0] * 5 + [0.1] * 8, {0, 12}, 5) == [0, 1, 2, 3, 12]


def test_more_that_must_be_kept_than_may_be_is_an_error():
    with pytest.raises(ValueError, match="3 must be kept, 2 may be"):
        kept_places([1.0] * 4, {0, 2, 3}, 2)


def record(step, stage="a", mass=1.0, decay=0.0, parameters=("w",)):
    group = ParameterGroup(0.1, weight_decay=decay, parameters=parameters, step_mass=mass)
    return CheckpointRecord(f"c{step}", step, stage, 0.1, 0.0, decay, groups=(group,))


def test_ends_of_stages_and_of_sets_of_parameters_are_kept():
    records = [
        *(record(step) for step in (1, 2, 3)),
        *(record(step, parameters=("w", "b")) for step in (4, 5)),
        *(record(step, stage="b", parameters=("w", "b")) for step in (6, 7, 8)),
    ]
    assert must_keep(records) == {0, 2, 4, 7}


def test_one_that_stands_for_others_has_their_steps_masses_and_decay():
    rates = [
        CheckpointRates(1, 10, "recorded", 0, 0.0, origins=("a",)),
        CheckpointRates(11, 20, "interpolated", 5, 0.5, origins=("b", "a")),
    ]
    last, of_both = joined([record(10, mass=3.0, decay=0.1), record(20, mass=1.0)], rates)
    (group,) = last.parameter_groups
    assert (last.id, last.step, group.step_mass) == ("c20", 20, 4.0)
    assert group.weight_decay == pytest.approx(0.075)
    expected = CheckpointRates(1, 20, "interpolated", 5, 0.125, origins=("a", "b"))
    assert of_both == expected
