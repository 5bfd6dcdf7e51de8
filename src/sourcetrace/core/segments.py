"""Checkpoints in order, the step mass of each, and their partition into segments."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from sourcetrace.core.errors import InputError


@dataclass(frozen=True)
class CheckpointRecord:
    """What the method needs to know of a checkpoint, besides its weights.

    Attributes:
        id: Unique name.
        step: Optimiser steps taken, counted over the whole training.
        stage: Name of the stage of training.
        learning_rate: At this step.
        momentum: Heavy-ball β, 0 ≤ β < 1.
        weight_decay: Coupled weight decay.
    """

    id: str
    step: int
    stage: str
    learning_rate: float
    momentum: float
    weight_decay: float


@dataclass(frozen=True)
class Segment:
    """Consecutive checkpoints over which gradients and curvature count as stationary.

    Attributes:
        number: From 1, in the order of training.
        stage: The stage it lies in; a segment never spans two.
        step_mass: τ, Σ of learning rates over its steps / (1 - β).
        weight_decay: Mean over its steps, weighted by step mass.
        checkpoints: Ids, in order.
    """

    number: int
    stage: str
    step_mass: float
    weight_decay: float
    checkpoints: tuple[str, ...]


def check_order(records: Sequence[CheckpointRecord]) -> None:
    """Refuse checkpoints whose steps or stages are not in one order.

    Raises:
        InputError: If a step repeats, falls, or a stage comes back after another.
    """
    if not records:
        raise InputError("There are no checkpoints: expected at least one.")
    for record in records:
        if not 0 <= record.momentum < 1:
            raise InputError(
                f"Checkpoint {record.id} says momentum {record.momentum:g}; expected 0 up to, "
                "without, 1."
            )
    for before, after in zip(records, records[1:], strict=False):
        if after.step == before.step:
            raise InputError(
                f"Checkpoints {before.id} and {after.id} both say step {after.step}; steps must "
                "be unique. Remove one, or correct its 'step'."
            )
        if after.step < before.step:
            raise InputError(
                f"Checkpoint {after.id} says step {after.step} but follows {before.id} with "
                f"step {before.step}. Checkpoints are read in the order of their names and "
                "their steps must rise: rename the files, or correct 'step' (it counts over the "
                "whole training, all stages together)."
            )
    stages = [stage for stage, _ in groupby(records, key=lambda record: record.stage)]
    if len(stages) != len(set(stages)):
        raise InputError(
            f"The stages alternate ({' → '.join(stages)}); a stage's checkpoints must be "
            "consecutive. Give a stage that comes back another name."
        )


def step_masses(records: Sequence[CheckpointRecord]) -> list[float]:
    """Return each checkpoint's share of the step mass: its steps since the one before.

    The learning rate between two checkpoints of a stage is the mean of theirs; the steps
    that begin a stage have its first checkpoint's. Exact for a constant rate.
    """
    masses = []
    for index, record in enumerate(records):
        before = records[index - 1] if index else None
        same_stage = before is not None and before.stage == record.stage
        rate = record.learning_rate
        if before is not None and same_stage:
            rate = (before.learning_rate + record.learning_rate) / 2
        steps = record.step - (before.step if before else 0)
        masses.append(steps * rate / (1 - record.momentum))
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
    masses = dict(zip((r.id for r in records), step_masses(records), strict=True))
    stages = [list(group) for _, group in groupby(records, key=lambda record: record.stage)]
    segments: list[Segment] = []
    for stage, share in zip(stages, _shares([len(s) for s in stages], count), strict=True):
        bounds = [round(i * len(stage) / share) for i in range(share + 1)]
        for start, stop in zip(bounds, bounds[1:], strict=False):
            segments.append(_segment(len(segments) + 1, stage[start:stop], masses))
    return segments


def _segment(number: int, members: Sequence[CheckpointRecord], masses: dict[str, float]) -> Segment:
    mass = sum(masses[record.id] for record in members)
    if mass <= 0:
        raise InputError(
            f"Segment {number} ({', '.join(r.id for r in members)}) has a step mass of {mass:g}: "
            "no optimiser step with a positive learning rate. A checkpoint of the initial "
            "weights needs a later one in its segment: lower segments.count or remove it."
        )
    decay = sum(masses[record.id] * record.weight_decay for record in members) / mass
    return Segment(number, members[0].stage, mass, decay, tuple(r.id for r in members))


def _shares(sizes: Sequence[int], count: int) -> list[int]:
    """Distribute `count` segments over stages of these sizes, each at least 1, at most its size."""
    shares = [1] * len(sizes)
    for _ in range(count - len(sizes)):
        # The stage whose segments are now the longest gets the next one.
        longest = max(range(len(sizes)), key=lambda i: sizes[i] / shares[i])
        shares[longest] += 1
    return shares
