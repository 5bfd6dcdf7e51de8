"""Sums of learning rates over the steps that count for each checkpoint."""

import pytest
import torch

from sourcetrace.core.training.optimizer_settings import ParameterGroup
from sourcetrace.core.training.schedules import KnownRates, sum_rates
from sourcetrace.core.training.segments import CheckpointRecord, group_step_masses, partition
from sourcetrace.errors import InputError


def record(step, *rates, stage="training", **settings):
    groups = tuple(ParameterGroup(rate, **settings) for rate in rates or (0.1,))
    return CheckpointRecord(
        f"c{step}", step, stage, groups[0].learning_rate, 0.0, 0.0, groups=groups
    )


def sums(records):
    return [tuple(group.step_mass for group in one.groups) for one in records]


def known(first, rates, source="recorded"):
    values = torch.tensor(rates, dtype=torch.float64)
    return KnownRates(first, values.reshape(len(values), -1), source, "rates.csv")


def test_a_rate_that_stays_is_constant_and_one_that_changes_interpolated():
    found, rates = sum_rates([record(10), record(30), record(40, 0.05)])
    assert sums(found) == [pytest.approx((1.0,)), pytest.approx((2.0,)), pytest.approx((0.75,))]
    assert [one.source for one in rates] == ["constant", "constant", "interpolated"]
    assert [(one.first_step, one.last_step) for one in rates] == [(1, 10), (11, 30), (31, 40)]
    assert [one.interpolated_steps for one in rates] == [0, 0, 10]
    assert rates[2].interpolated_share == pytest.approx(1.0)


def test_the_default_is_that_of_the_step_masses():
    records = [record(10), record(30, 0.3), record(40, 0.0)]
    found, _ = sum_rates(records)
    for expected, own in zip(group_step_masses(records), group_step_masses(found), strict=True):
        assert own == pytest.approx(expected)


def test_a_scheduled_beginning_is_a_line_from_the_schedulers_first_rate():
    found, rates = sum_rates([record(10, 0.1, initial_learning_rate=0.3)])
    assert sums(found)[0] == pytest.approx((2.0,))
    assert rates[0].source == "interpolated"


@pytest.mark.parametrize(
    ("settings", "scheduled"), [({}, {"training"}), ({"initial_learning_rate": 0.1}, ())]
)
def test_nothing_is_constant_where_a_scheduler_was_at_work(settings, scheduled):
    _, rates = sum_rates([record(10, **settings), record(30, **settings)], scheduled=scheduled)
    assert [one.source for one in rates] == ["interpolated"] * 2


def test_each_step_counts_with_its_own_momentum():
    rates, momenta = [0.1, 0.2, 0.3], [0.5, 0.8, 0.0]
    one = KnownRates(1, known(1, rates).rates, "reconstructed", "c", known(1, momenta).rates)
    ends = [record(3, 0.3, momentum=0.0), record(5, 0.3, momentum=0.9)]
    found, described = sum_rates(ends, known=[known(1, [0.1, 0.2, 0.3, 0.3, 0.3]), one])
    # A line from 0 to 0.9 over the two steps of which nothing is known.
    expected = [0.1 / 0.5 + 0.2 / 0.2 + 0.3, 0.3 / (1 - 0.225) + 0.3 / (1 - 0.675)]
    assert [mass for (mass,) in sums(found)] == pytest.approx(expected)
    assert [one.momentum_guessed for one in described] == [False, True]
    # Momentum that cycles may be back where it was at every checkpoint.
    same = [record(3, momentum=0.9), record(5, momentum=0.9, momentum_cycles=True)]
    _, described = sum_rates(same)
    assert [one.momentum_guessed for one in described] == [False, True]


def test_recorded_rates_are_summed_exactly_and_win_over_others():
    rates = [0.1 * (step % 3) for step in range(1, 11)]
    found, described = sum_rates(
        [record(4), record(10, 0.7)],
        known=[known(1, rates), known(1, [9.0] * 10, "reconstructed")],
    )
    assert sums(found) == [
        pytest.approx((sum(rates[:4]),)),
        pytest.approx((sum(rates[4:]),)),
    ]
    assert {one.source for one in described} == {"recorded"}


def test_a_record_of_part_of_the_steps_leaves_the_others_to_the_line():
    found, (described,) = sum_rates(
        [record(10, 0.1, initial_learning_rate=0.3)], known=[known(6, [1.0] * 5)]
    )
    # The line from 0.3 to 0.1 over the first five of ten steps: 0.29, 0.27, … 0.21.
    assert sums(found)[0] == pytest.approx((5 * 0.25 + 5.0,))
    assert described.source == "interpolated"
    assert described.interpolated_steps == 5
    assert described.interpolated_share == pytest.approx(1.25 / 6.25)


def test_one_column_of_rates_keeps_the_groups_proportions():
    found, _ = sum_rates([record(2, 0.1, 0.3)], known=[known(1, [0.1, 0.2])])
    assert sums(found)[0] == pytest.approx((0.3, 0.9))
    found, _ = sum_rates([record(2, 0.0, 0.0)], known=[known(1, [0.1, 0.2])])
    assert sums(found)[0] == pytest.approx((0.3, 0.3))


def test_a_column_a_group_is_taken_as_it_is():
    found, _ = sum_rates([record(2, 0.1, 0.3)], known=[known(1, [[1.0, 2.0], [3.0, 4.0]])])
    assert sums(found)[0] == pytest.approx((4.0, 6.0))
    with pytest.raises(InputError, match=r"rates\.csv: learning rates of 2 .* has 1"):
        sum_rates([record(2, 0.1)], known=[known(1, [[1.0, 2.0], [3.0, 4.0]])])


def test_steps_behind_a_stages_last_checkpoint_count_for_that_stage():
    records = [record(10, stage="a"), record(40, 0.01, stage="b")]
    found, rates = sum_rates(records, stage_ends={"a": 30, "b": 60})
    assert sums(found) == [pytest.approx((3.0,)), pytest.approx((0.1,))]
    assert [(one.first_step, one.last_step) for one in rates] == [(1, 30), (31, 40)]
    segments = partition(found, 2)
    assert [segment.step_mass for segment in segments] == pytest.approx([3.0, 0.1])


def test_without_the_stages_end_the_steps_count_for_the_next_stage():
    found, _ = sum_rates([record(10, stage="a"), record(40, 0.01, stage="b")])
    assert sums(found) == [pytest.approx((1.0,)), pytest.approx((0.3,))]


@pytest.mark.parametrize("end", [5, 40, 50])
def test_an_end_that_contradicts_the_checkpoints_is_refused(end):
    with pytest.raises(InputError, match=rf"stage 'a' ends with step {end}, but"):
        sum_rates([record(10, stage="a"), record(40, stage="b")], stage_ends={"a": end})


def test_a_stage_without_a_checkpoint_is_refused():
    ends = {"a": 20, "middle": 30, "b": 40, "future": 99}
    with pytest.raises(InputError, match="names 'middle', but no checkpoint"):
        sum_rates([record(10, stage="a"), record(40, stage="b")], stage_ends=ends)


def test_a_checkpoint_of_the_initial_weights_has_no_steps():
    found, rates = sum_rates([record(0), record(5)])
    assert sums(found) == [pytest.approx((0.0,)), pytest.approx((0.5,))]
    assert rates[0].last_step < rates[0].first_step
