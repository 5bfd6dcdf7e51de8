"""Checkpoints in order, the step mass of each, and their partition into segments."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

from sourcetrace.core.training.optimizer_settings import (
    OptimizerName,
    ParameterGroup,
    ParameterSettings,
)
from sourcetrace.errors import InputError

MOST_STEPS = 50_000_000
"""Of a training: every step's learning rate is looked at, some 40 bytes a step and group."""


@dataclass(frozen=True)
class CheckpointRecord:
    """What the method needs to know of a checkpoint, besides its weights.

    Attributes:
        id: Unique name.
        step: Optimiser steps taken, counted over the whole training.
        stage: Name of the stage of training.
        learning_rate: At this step; this and the next two are the first group's.
        momentum: Heavy-ball β, 0 ≤ β < 1.
        weight_decay: Coupled or decoupled, as the optimiser's is.
        optimizer: Its name.
        groups: The parameter groups; none means one of all parameters with the settings above.
        run: Name of the training run, where there are several; the id begins with it.
    """

    id: str
    step: int
    stage: str
    learning_rate: float
    momentum: float
    weight_decay: float
    optimizer: OptimizerName = "SGD"
    groups: tuple[ParameterGroup, ...] = ()
    run: str = ""

    @property
    def parameter_groups(self) -> tuple[ParameterGroup, ...]:
        """The parameter groups, at least one."""
        own = ParameterGroup(self.learning_rate, self.momentum, weight_decay=self.weight_decay)
        return self.groups or (own,)


@dataclass(frozen=True)
class Segment:
    """Consecutive checkpoints over which gradients and curvature count as stationary.

    Attributes:
        number: From 1, in the order of training; over all runs, one run after the other.
        stage: The stage it lies in; a segment never spans two.
        step_mass: τ, Σ of learning rates over its steps, times the momentum's factor; of the
            first parameter group.
        weight_decay: Mean over its steps, weighted by step mass; of the first group.
        checkpoints: Ids, in order.
        optimizer: Name of the optimiser.
        settings: Parameter -> its own τ and w; empty where all parameters are alike.
        run: Name of the training run, where there are several.
        steps: Of the checkpoints, counted over the run.
    """

    number: int
    stage: str
    step_mass: float
    weight_decay: float
    checkpoints: tuple[str, ...]
    optimizer: OptimizerName = "SGD"
    settings: Mapping[str, ParameterSettings] = field(default_factory=dict)
    run: str = ""
    steps: tuple[int, ...] = ()

    @classmethod
    def of(
        cls, number: int, members: Sequence[CheckpointRecord], masses: Sequence[Sequence[float]]
    ) -> "Segment":
        """Join consecutive checkpoints to a segment.

        Args:
            number: From 1.
            members: Its checkpoints.
            masses: The step mass of each checkpoint's groups.

        Raises:
            InputError: If no parameter was moved by a step.
        """
        first_group: list[tuple[ParameterGroup, float]] = []
        named: dict[str, list[tuple[ParameterGroup, float]]] = {}
        for record, own in zip(members, masses, strict=True):
            first_group.append((record.parameter_groups[0], own[0]))
            for group, mass in zip(record.parameter_groups, own, strict=True):
                for name in group.parameters:
                    named.setdefault(name, []).append((group, mass))
        first = _settings(first_group)
        # Of every named parameter; nothing where one unnamed group has them all.
        settings = {name: _settings(parts) for name, parts in named.items()}
        if max([first.step_mass, *(one.step_mass for one in settings.values())]) <= 0:
            raise InputError(
                f"Segment {number} ({', '.join(r.id for r in members)}) has a step mass of "
                f"{first.step_mass:g}: "
                "no optimiser step with a positive learning rate. A checkpoint of the initial "
                "weights needs a later one in its segment: ask for fewer segments, or remove it."
            )
        return cls(
            number,
            members[0].stage,
            first.step_mass,
            first.weight_decay,
            tuple(record.id for record in members),
            members[0].optimizer,
            settings,
            members[0].run,
            tuple(record.step for record in members),
        )


def check_order(records: Sequence[CheckpointRecord]) -> None:
    """Refuse checkpoints whose steps, stages or optimisers are not in one order.

    Raises:
        InputError: If a step repeats, falls, is beyond `MOST_STEPS`, a stage comes back after
            another, or has two optimisers.
    """
    if not records:
        raise InputError("There are no checkpoints: expected at least one.")
    for record in records:
        if record.step > MOST_STEPS:
            raise InputError(
                f"Checkpoint {record.id} says step {record.step}; expected at most {MOST_STEPS}. "
                "Correct its 'step': it counts the optimiser's steps, not examples or tokens."
            )
        for group in record.parameter_groups:
            if not 0 <= group.momentum < 1:
                raise InputError(
                    f"Checkpoint {record.id} says momentum {group.momentum:g}; expected 0 up to, "
                    "without, 1."
                )
    for before, after in zip(records, records[1:], strict=False):
        if after.step == before.step:
            folders = (
                " Folders with a number at their end and one checkpoint each are one training run; "
                "those of an ensemble need other names, as in run-a, run-b."
            )
            raise InputError(
                f"Checkpoints {before.id} and {after.id} both say step {after.step}, with other "
                "weights; steps must be unique. Remove one, correct its 'step', or let "
                "checkpoints.path be a list of the files that count."
                f"{folders if '/' in after.id and not after.run else ''}"
            )
        if after.step < before.step:
            raise InputError(
                f"Checkpoint {after.id} says step {after.step} but follows {before.id} with "
                f"step {before.step}. Checkpoints are read in the order of their names and "
                "their steps must rise: rename the files, or correct 'step' (it counts over the "
                "whole training, all stages together)."
            )
        if after.stage == before.stage and after.optimizer != before.optimizer:
            raise InputError(
                f"Checkpoint {before.id} was trained by {before.optimizer} and {after.id} by "
                f"{after.optimizer}, both in stage {after.stage!r}. Give the part of training "
                "with the other optimiser a stage of its own."
            )
    stages = [stage for stage, _ in groupby(records, key=lambda record: record.stage)]
    if len(stages) != len(set(stages)):
        raise InputError(
            f"The stages alternate ({' → '.join(stages)}); a stage's checkpoints must be "
            "consecutive. Give a stage that comes back another name."
        )


def group_step_masses(records: Sequence[CheckpointRecord]) -> list[tuple[float, ...]]:
    """Return each checkpoint's share of the step mass: its steps since the one before, by group.

    Where a group's `step_mass` is not known, the learning rate between two checkpoints of a
    stage is the mean of theirs, and the steps that begin a stage have its first checkpoint's.
    Exact for a constant rate.
    """
    masses = []
    for index, record in enumerate(records):
        before = records[index - 1] if index else None
        steps = record.step - (before.step if before else 0)
        groups = record.parameter_groups
        earlier = before.parameter_groups if before and before.stage == record.stage else groups
        if len(earlier) != len(groups):
            earlier = groups
        masses.append(
            tuple(
                group.step_factor * steps * (previous.learning_rate + group.learning_rate) / 2
                if group.step_mass is None
                else group.step_mass
                for previous, group in zip(earlier, groups, strict=True)
            )
        )
    return masses


def partition(records: Sequence[CheckpointRecord], count: int) -> list[Segment]:
    """Split checkpoints into `count` segments of equal numbers, at least one a stage.

    Args:
        records: Checkpoints in order, as `check_order` accepts them.
        count: Segments over the whole run; raised to the number of stages.

    Raises:
        InputError: If there are fewer checkpoints than segments, or a segment has no steps.
    """
    if count > len(records):
        raise InputError(
            f"segments.count is {count}, but there are only {len(records)} checkpoints. "
            "Lower it, or save checkpoints more often."
        )
    groups = []
    stages = _by_stage(records)
    for stage, share in zip(stages, _shares([len(s) for s in stages], count), strict=True):
        bounds = [round(i * len(stage) / share) for i in range(share + 1)]
        groups += [stage[start:stop] for start, stop in zip(bounds, bounds[1:], strict=False)]
    return _segments(records, groups)


def partition_at(records: Sequence[CheckpointRecord], ends: Sequence[int]) -> list[Segment]:
    """Split checkpoints behind those of the given steps, and between stages.

    A segment in which no step was taken, such as a checkpoint of the initial weights, goes with
    the one after it.

    Args:
        records: Checkpoints in order, as `check_order` accepts them.
        ends: Steps of the last checkpoint of each segment; the last segment's may be left out.

    Raises:
        InputError: If there is no checkpoint of such a step, or a segment has no steps.
    """
    steps = [record.step for record in records]
    if missing := sorted(set(ends) - set(steps)):
        raise InputError(
            f"segments.ends names step {', '.join(map(str, missing))}, but the checkpoints have "
            f"steps {', '.join(map(str, steps))}. A segment ends at a checkpoint."
        )
    moved = {
        record.id: max(m) > 0 for record, m in zip(records, group_step_masses(records), strict=True)
    }
    groups: list[list[CheckpointRecord]] = []
    for stage in _by_stage(records):
        group: list[CheckpointRecord] = []
        for record in stage:
            group.append(record)
            if record is stage[-1] or (record.step in ends and any(moved[one.id] for one in group)):
                groups.append(group)
                group = []
    return _segments(records, groups)


def _by_stage(records: Sequence[CheckpointRecord]) -> list[list[CheckpointRecord]]:
    return [list(group) for _, group in groupby(records, key=lambda record: record.stage)]


def _segments(
    records: Sequence[CheckpointRecord], groups: Sequence[Sequence[CheckpointRecord]]
) -> list[Segment]:
    masses = dict(zip((r.id for r in records), group_step_masses(records), strict=True))
    return [
        Segment.of(number, members, [masses[one.id] for one in members])
        for number, members in enumerate(groups, start=1)
    ]


def number_segments(
    runs: Sequence[Sequence[CheckpointRecord]],
    partition_run: Callable[[Sequence[CheckpointRecord]], Sequence[Segment]],
) -> list[Segment]:
    """Partition every run by itself, and number the segments over all of them."""
    segments: list[Segment] = []
    for records in runs:
        first = len(segments)
        segments += [replace(one, number=first + one.number) for one in partition_run(records)]
    return segments


def settings_of(segments: Sequence[Segment]) -> Callable[[str], Hashable]:
    """Return parameter -> a value that is the same for parameters that were trained alike."""
    return lambda parameter: tuple(segment.settings.get(parameter) for segment in segments)


def _settings(terms: Sequence[tuple[ParameterGroup, float]]) -> ParameterSettings:
    mass = sum(part for _, part in terms)
    decay = sum(part * group.weight_decay for group, part in terms)
    return ParameterSettings(mass, decay / mass if mass > 0 else 0.0)


def _shares(sizes: Sequence[int], count: int) -> list[int]:
    """Distribute `count` segments over stages of these sizes, each at least 1, at most its size."""
    shares = [1] * len(sizes)
    for _ in range(count - len(sizes)):
        # The stage whose segments are now the longest gets the next one.
        longest = max(range(len(sizes)), key=lambda i: sizes[i] / shares[i])
        shares[longest] += 1
    return shares
