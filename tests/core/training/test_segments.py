"""Step masses, and the partition of checkpoints into segments."""

import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sourcetrace.core.training.optimizer_settings import ParameterGroup, ParameterSettings
from sourcetrace.core.training.schedules import sum_rates
from sourcetrace.core.training.segments import (
    MOST_STEPS,
    CheckpointRecord,
    check_order,
    group_step_masses,
    partition,
    partition_at,
    settings_of,
)
from sourcetrace.errors import InputError


def step_masses(records):
    """Return the first group's."""
    return [own[0] for own in group_step_masses(records)]


def checkpoint(
    step: int,
    *,
    stage: str = "training",
    learning_rate: float = 0.1,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
) -> CheckpointRecord:
    return CheckpointRecord(
        id=f"checkpoint-{step}",
        step=step,
        stage=stage,
        learning_rate=learning_rate,
        momentum=momentum,
        weight_decay=weight_decay,
    )


@pytest.mark.parametrize("step", [2 * 10**8, 10**18])
def test_more_steps_than_any_training_takes_are_refused_in_one_paragraph(step):
    check_order([checkpoint(MOST_STEPS)])
    with pytest.raises(InputError, match=rf"^Checkpoint \S+ says step {step}; .* Correct .*\.$"):
        check_order([checkpoint(1), checkpoint(step)])


@pytest.mark.parametrize("checkpoints_a_third", [1, 2, 5])
def test_reproduces_the_published_step_mass(checkpoints_a_third):
    """Equal thirds of 20 epochs, N = 6144, batch 64, rate 0.03, β = 0.9: 1/τ = 0.0052."""
    steps = 20 * 6144 // 64
    number = 3 * checkpoints_a_third
    records = [
        checkpoint(steps * (i + 1) // number, learning_rate=0.03, momentum=0.9)
        for i in range(number)
    ]
    # From the checkpoints' own rates, and from the sum over every step.
    summed, _ = sum_rates(records)
    assert step_masses(summed) == pytest.approx(step_masses(records))
    segments = partition(summed, 3)
    assert [f"{1 / segment.step_mass:.4f}" for segment in segments] == ["0.0052"] * 3
    assert sum(segment.step_mass for segment in segments) == pytest.approx(steps * 0.03 / 0.1)


def test_a_mass_is_the_steps_since_the_checkpoint_before_times_the_mean_rate():
    records = [
        checkpoint(10, learning_rate=0.1),
        checkpoint(30, learning_rate=0.2),
        checkpoint(40, learning_rate=0.0),
    ]
    assert step_masses(records) == pytest.approx([1.0, 3.0, 1.0])


def test_a_stage_begins_with_its_own_rate():
    records = [
        checkpoint(10, stage="first", learning_rate=0.1),
        checkpoint(30, stage="second", learning_rate=0.01),
    ]
    assert step_masses(records) == pytest.approx([1.0, 0.2])


def test_momentum_multiplies_the_mass():
    assert step_masses([checkpoint(10, momentum=0.75)]) == pytest.approx([4.0])


def grouped(step: int, *groups: ParameterGroup, **settings) -> CheckpointRecord:
    return replace(checkpoint(step, **settings), groups=groups)


def test_every_parameter_has_the_mass_and_decay_of_its_group():
    records = [
        grouped(
            10,
            ParameterGroup(0.1, parameters=("body",)),
            ParameterGroup(0.2, momentum=0.5, weight_decay=0.3, parameters=("head", "scale")),
        ),
        grouped(
            20,
            ParameterGroup(0.1, parameters=("body", "scale")),
            ParameterGroup(0.2, momentum=0.5, weight_decay=0.6, parameters=("head",)),
        ),
    ]
    (segment,) = partition(records, 1)
    assert segment.settings["body"] == ParameterSettings(pytest.approx(2.0), 0.0)
    assert segment.settings["head"].step_mass == pytest.approx(8.0)
    assert segment.settings["head"].weight_decay == pytest.approx(0.45)
    assert segment.settings["scale"].step_mass == pytest.approx(5.0)
    assert segment.step_mass == pytest.approx(2.0)


def test_a_parameter_of_one_stage_alone_has_no_settings_in_the_other():
    records = [
        grouped(10, ParameterGroup(0.1, parameters=("body", "head")), stage="first"),
        grouped(20, ParameterGroup(0.1, parameters=("head",)), stage="second"),
    ]
    first, second = partition(records, 2)
    assert set(first.settings) == {"body", "head"}
    assert set(second.settings) == {"head"}


def test_settings_of_tells_parameters_apart_that_are_trained_differently():
    records = [
        grouped(
            10,
            ParameterGroup(0.1, parameters=("a", "b")),
            ParameterGroup(0.1, weight_decay=0.1, parameters=("c",)),
        ),
        grouped(20, ParameterGroup(0.1, parameters=("a", "b", "c")), stage="second"),
    ]
    key = settings_of(partition(records, 2))
    assert key("a") == key("b")
    assert key("a") != key("c")
    assert key("never trained") != key("a")


def test_two_optimisers_in_a_stage_are_refused():
    records = [checkpoint(1), replace(checkpoint(2), optimizer="Adam")]
    with pytest.raises(InputError, match="trained by SGD and checkpoint-2 by Adam, both in stage"):
        check_order(records)
    check_order([checkpoint(1), replace(checkpoint(2, stage="later"), optimizer="Adam")])


def test_a_segment_counts_if_any_group_moved():
    still = grouped(
        5, ParameterGroup(0.0, parameters=("a",)), ParameterGroup(0.1, parameters=("b",))
    )
    (segment,) = partition([still], 1)
    assert segment.settings["b"].step_mass == pytest.approx(0.5)


def test_initial_weights_add_no_mass():
    assert step_masses([checkpoint(0), checkpoint(5)]) == pytest.approx([0.0, 0.5])


def test_weight_decay_is_averaged_by_step_mass():
    records = [checkpoint(10, weight_decay=0.1), checkpoint(40, weight_decay=0.5)]
    (segment,) = partition(records, 1)
    assert segment.step_mass == pytest.approx(4.0)
    assert segment.weight_decay == pytest.approx((1.0 * 0.1 + 3.0 * 0.5) / 4.0)


def test_checkpoints_are_shared_out_equally():
    segments = partition([checkpoint(step) for step in range(1, 7)], 3)
    assert [segment.number for segment in segments] == [1, 2, 3]
    assert [segment.checkpoints for segment in segments] == [
        ("checkpoint-1", "checkpoint-2"),
        ("checkpoint-3", "checkpoint-4"),
        ("checkpoint-5", "checkpoint-6"),
    ]


def test_the_longer_stage_gets_more_segments():
    records = [checkpoint(s, stage="long" if s <= 6 else "short") for s in range(1, 9)]
    segments = partition(records, 4)
    assert [segment.stage for segment in segments] == ["long", "long", "long", "short"]


def test_every_stage_gets_a_segment_whatever_the_count():
    records = [checkpoint(step, stage=f"stage {step}") for step in (1, 2, 3)]
    assert [segment.stage for segment in partition(records, 1)] == ["stage 1", "stage 2", "stage 3"]


@st.composite
def runs(draw: st.DrawFn) -> tuple[list[CheckpointRecord], int]:
    """One to three stages of checkpoints with rising steps, and a number of segments."""
    records: list[CheckpointRecord] = []
    step = 0
    for stage in range(draw(st.integers(1, 3))):
        momentum = draw(st.sampled_from([0.0, 0.5, 0.9]))
        for _ in range(draw(st.integers(1, 9))):
            step += draw(st.integers(1, 50))
            rate = draw(st.floats(1e-4, 1.0))
            records.append(
                checkpoint(step, stage=f"stage {stage}", learning_rate=rate, momentum=momentum)
            )
    return records, draw(st.integers(1, len(records)))


@settings(max_examples=200, derandomize=True, deadline=None, database=None)
@given(runs())
def test_a_partition_loses_nothing_and_spans_no_stages(drawn):
    records, count = drawn
    check_order(records)
    segments = partition(records, count)
    by_id = {record.id: record for record in records}
    joined = [name for segment in segments for name in segment.checkpoints]
    assert joined == [record.id for record in records]
    assert len(segments) == max(count, len({record.stage for record in records}))
    assert [segment.number for segment in segments] == list(range(1, len(segments) + 1))
    for segment in segments:
        assert segment.checkpoints
        assert {by_id[name].stage for name in segment.checkpoints} == {segment.stage}
        assert segment.step_mass > 0
    assert sum(s.step_mass for s in segments) == pytest.approx(sum(step_masses(records)))
    for stage in {record.stage for record in records}:
        sizes = [len(segment.checkpoints) for segment in segments if segment.stage == stage]
        assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ([], "There are no checkpoints"),
        (
            [checkpoint(1), CheckpointRecord("other", 1, "training", 0.1, 0.0, 0.0)],
            "Checkpoints checkpoint-1 and other both say step 1",
        ),
        (
            [checkpoint(5), checkpoint(3)],
            "Checkpoint checkpoint-3 says step 3 but follows checkpoint-5 with step 5",
        ),
        (
            [checkpoint(1, stage="a"), checkpoint(2, stage="b"), checkpoint(3, stage="a")],
            "The stages alternate (a → b → a)",
        ),
    ],
    ids=["none", "a repeated step", "a falling step", "alternating stages"],
)
def test_checkpoints_out_of_order_are_refused(records, expected):
    with pytest.raises(InputError, match=re.escape(expected)):
        check_order(records)


def test_more_segments_than_checkpoints_are_refused():
    expected = re.escape("segments.count is 3, but there are only 2 checkpoints")
    with pytest.raises(InputError, match=expected):
        partition([checkpoint(1), checkpoint(2)], 3)


@pytest.mark.parametrize(
    ("records", "named"),
    [
        ([checkpoint(0), checkpoint(5)], "Segment 1 (checkpoint-0) has a step mass of 0"),
        (
            [checkpoint(5), checkpoint(9, learning_rate=0.0, stage="last")],
            "Segment 2 (checkpoint-9) has a step mass of 0",
        ),
    ],
    ids=["initial weights", "no learning rate"],
)
def test_a_segment_without_steps_is_refused_by_name(records, named):
    with pytest.raises(InputError, match=re.escape(named)):
        partition(records, 2)


def test_segments_end_at_the_given_steps_and_between_stages():
    records = [
        *(checkpoint(step, stage="first") for step in (1, 2, 3, 4)),
        *(checkpoint(step, stage="second") for step in (5, 6)),
    ]
    segments = partition_at(records, [2])
    assert [(segment.stage, len(segment.checkpoints)) for segment in segments] == [
        ("first", 2),
        ("first", 2),
        ("second", 2),
    ]
    assert [segment.number for segment in segments] == [1, 2, 3]
    # An end at a stage's last checkpoint changes nothing.
    assert partition_at(records, [2, 4, 6]) == segments


def test_equal_counts_are_a_partition_at_their_ends():
    records = [checkpoint(step) for step in (10, 20, 30, 40, 50, 60)]
    assert partition_at(records, [20, 40]) == partition(records, 3)


def test_a_checkpoint_before_any_step_goes_with_the_next_segment():
    records = [checkpoint(0), checkpoint(10), checkpoint(20)]
    segments = partition_at(records, [0, 10])
    assert [segment.checkpoints for segment in segments] == [
        ("checkpoint-0", "checkpoint-10"),
        ("checkpoint-20",),
    ]


def test_an_end_without_a_checkpoint_is_refused():
    with pytest.raises(InputError, match=r"segments\.ends names step 15, .* steps 10, 20"):
        partition_at([checkpoint(10), checkpoint(20)], [15])
