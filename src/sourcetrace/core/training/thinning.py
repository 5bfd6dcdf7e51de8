"""A few of many checkpoints, that stand for the steps of all.

A checkpoint's gradients and curvature stand for the steps since the one before that is kept. The
sum over what is kept of the squared step mass, Σ M², is least where the masses are even; of all
choices of so many checkpoints that keep what must be kept, the one with the least is taken.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace
from itertools import pairwise

import torch

from sourcetrace.core.training.optimizer_settings import ParameterGroup
from sourcetrace.core.training.schedules import SOURCES, CheckpointRates
from sourcetrace.core.training.segments import CheckpointRecord


def kept_places(masses: Sequence[float], must: Collection[int], at_most: int) -> list[int]:
    """Return the places of the checkpoints that are kept, rising.

    Args:
        masses: The step mass of every checkpoint, ≥ 0.
        must: Places that are kept in any case, the first and the last among them.
        at_most: How many are kept; at least as many as must be.

    Raises:
        ValueError: If more must be kept.
    """
    count = len(masses)
    if len(must) > at_most:
        raise ValueError(f"{len(must)} must be kept, {at_most} may be")
    passed = torch.tensor(list(masses), dtype=torch.float64).cumsum(0)
    # Least Σ M² with a checkpoint as the last that is kept, of one more kept in every round.
    least = torch.full((count,), torch.inf, dtype=torch.float64)
    least[0] = 0.0
    earliest = _last_of_must_before(count, must)
    best, before = [least], []
    for _ in range(min(at_most, count) - 1):
        rounds = torch.full_like(least, torch.inf)
        taken = torch.zeros(count, dtype=torch.long)
        for place in range(1, count):
            first = earliest[place]
            costs = best[-1][first:place] + (passed[place] - passed[first:place]).square()
            found = int(costs.argmin())
            rounds[place], taken[place] = costs[found], first + found
        best.append(rounds)
        before.append(taken)
    rounds_taken = min(range(len(best)), key=lambda one: float(best[one][-1]))
    places = [count - 1]
    for taken in reversed(before[:rounds_taken]):
        places.insert(0, int(taken[places[0]]))
    return places


def _last_of_must_before(count: int, must: Collection[int]) -> list[int]:
    found, last = [], 0
    for place in range(count):
        found.append(last)
        if place in must:
            last = place
    return found


def must_keep(records: Sequence[CheckpointRecord]) -> set[int]:
    """Return the places of the first, and of the last of every stage and set of groups."""
    kinds = [
        (record.stage, tuple(group.parameters for group in record.parameter_groups))
        for record in records
    ]
    ends = {place for place, (one, other) in enumerate(pairwise(kinds)) if one != other}
    return {0, len(records) - 1} | ends


def joined(
    records: Sequence[CheckpointRecord], rates: Sequence[CheckpointRates]
) -> tuple[CheckpointRecord, CheckpointRates]:
    """Return the last of consecutive checkpoints, with the steps and step masses of all of them.

    Args:
        records: With summed step masses, of one stage and set of groups.
        rates: Of the same.
    """
    last, masses = records[-1], [one.parameter_groups[0].step_mass or 0.0 for one in records]
    groups = zip(*(one.parameter_groups for one in records), strict=True)
    total = sum(masses)
    guessed = sum(m * one.interpolated_share for m, one in zip(masses, rates, strict=True))
    return replace(last, groups=tuple(_joined_group(one) for one in groups)), CheckpointRates(
        rates[0].first_step,
        rates[-1].last_step,
        max((one.source for one in rates), key=SOURCES.index),
        sum(one.interpolated_steps for one in rates),
        guessed / total if total else 0.0,
        any(one.momentum_guessed for one in rates),
        tuple(dict.fromkeys(origin for one in rates for origin in one.origins)),
    )


def _joined_group(groups: Sequence[ParameterGroup]) -> ParameterGroup:
    masses = [one.step_mass or 0.0 for one in groups]
    total = sum(masses)
    decay = sum(mass * one.weight_decay for mass, one in zip(masses, groups, strict=True))
    return replace(
        groups[-1],
        step_mass=total,
        weight_decay=decay / total if total else groups[-1].weight_decay,
    )
