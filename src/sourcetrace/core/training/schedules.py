"""The learning rates of the steps that count for each checkpoint, and their sum.

A checkpoint stands for the steps since the one before in its stage; a stage's last one also
for those up to the stage's end. What is not known of them is filled in: the same rate at both
ends is taken as constant, different ones as a straight line between them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from sourcetrace.core.training.optimizer_settings import ParameterGroup
from sourcetrace.core.training.segments import CheckpointRecord
from sourcetrace.errors import InputError

RateSource = Literal["recorded", "reconstructed", "constant", "interpolated"]
"""Where learning rates come from, the surest first."""

SOURCES: tuple[RateSource, ...] = ("recorded", "reconstructed", "constant", "interpolated")


@dataclass(frozen=True)
class KnownRates:
    """Learning rates of consecutive steps.

    Attributes:
        first_step: Number of the first, the first of the training being 1.
        rates: [steps, groups], or [steps, 1] for the first group; the others then keep their
            proportion to it.
        source: Where they come from.
        origin: What to call them in an error.
    """

    first_step: int
    rates: Tensor
    source: RateSource
    origin: str

    @property
    def last_step(self) -> int:
        """Number of the last step."""
        return self.first_step + len(self.rates) - 1


@dataclass(frozen=True)
class CheckpointRates:
    """The steps that count for a checkpoint.

    Attributes:
        first_step, last_step: The steps, both included; none if the last is before the first.
        source: The least sure source of any of them.
        interpolated_steps: How many have an interpolated rate.
        interpolated_share: Their share of the checkpoint's sum of rates, 0 to 1.
    """

    first_step: int
    last_step: int
    source: RateSource
    interpolated_steps: int
    interpolated_share: float


def sum_rates(
    records: Sequence[CheckpointRecord],
    *,
    stage_ends: Mapping[str, int] | None = None,
    known: Sequence[KnownRates] = (),
) -> tuple[list[CheckpointRecord], list[CheckpointRates]]:
    """Return the records with every group's `rate_sum`, and where the rates came from.

    Args:
        records: Checkpoints in order, as `check_order` accepts them.
        stage_ends: Stage -> its last step, counted over the whole training.
        known: Learning rates that are known, the surest first.

    Raises:
        InputError: If a stage's end contradicts the checkpoints, or known rates have another
            number of groups.
    """
    ends = dict(stage_ends or {})
    _check_ends(records, ends)
    summed, described = [], []
    for index, record in enumerate(records):
        before = records[index - 1] if index else None
        after = records[index + 1] if index + 1 < len(records) else None
        begin = 0 if before is None else before.step
        if before is not None and before.stage != record.stage:
            begin = max(begin, ends.get(before.stage, begin))
        first, last = begin + 1, record.step
        if after is not None and after.stage != record.stage:
            # The last checkpoint of all is the final model: steps after it never came to it.
            last = max(last, ends.get(record.stage, last))
        rates, sources = _filled(record, before, first, last)
        for one in reversed(known):
            _overlay(rates, sources, one, record.parameter_groups, first)
        sums = rates.sum(0).tolist()
        summed.append(
            replace(
                record,
                groups=tuple(
                    replace(group, rate_sum=total)
                    for group, total in zip(record.parameter_groups, sums, strict=True)
                ),
            )
        )
        guessed = sources == SOURCES.index("interpolated")
        described.append(
            CheckpointRates(
                first,
                last,
                SOURCES[int(sources.max())] if len(sources) else "constant",
                int(guessed.sum()),
                float(rates[guessed, 0].sum() / sums[0]) if sums[0] else 0.0,
            )
        )
    return summed, described


def _check_ends(records: Sequence[CheckpointRecord], ends: Mapping[str, int]) -> None:
    for before, after in zip(records, records[1:], strict=False):
        end = ends.get(before.stage)
        if end is None or before.stage == after.stage:
            continue
        if not before.step <= end < after.step:
            raise InputError(
                f"checkpoints.stages says stage {before.stage!r} ends with step {end}, but "
                f"checkpoint {before.id} of that stage is at step {before.step} and {after.id} "
                f"of stage {after.stage!r} at step {after.step}. Correct the last step: it "
                "counts over the whole training."
            )
    between = [
        name
        for name, end in ends.items()
        if end < records[-1].step and name not in {record.stage for record in records}
    ]
    if between:
        raise InputError(
            f"checkpoints.stages names {', '.join(map(repr, between))}, but no checkpoint lies "
            "in it. Save a checkpoint at the end of every stage, or remove the name."
        )


def _filled(
    record: CheckpointRecord, before: CheckpointRecord | None, first: int, last: int
) -> tuple[Tensor, Tensor]:
    """Return rates [steps, groups] and sources [steps] where nothing but the ends is known."""
    groups = record.parameter_groups
    steps = max(0, last - first + 1)
    own = torch.tensor([group.learning_rate for group in groups], dtype=torch.float64)
    begin = torch.tensor([group.rate_at_begin for group in groups], dtype=torch.float64)
    if before is not None and before.stage == record.stage:
        earlier = [group.learning_rate for group in before.parameter_groups]
        if len(earlier) == len(groups):
            begin = torch.tensor(earlier, dtype=torch.float64)
    inside = max(0, record.step - first + 1)
    # The middle of each step, so that the sum is that of the line.
    position = ((torch.arange(steps, dtype=torch.float64) + 0.5) / max(inside, 1)).clamp(max=1.0)
    rates = begin + position.unsqueeze(1) * (own - begin)
    rates[inside:] = own
    kind = SOURCES.index("constant" if torch.equal(own, begin) else "interpolated")
    return rates, torch.full((steps,), kind, dtype=torch.uint8)


def _overlay(
    rates: Tensor,
    sources: Tensor,
    known: KnownRates,
    groups: Sequence[ParameterGroup],
    first: int,
) -> None:
    """Put what is known into rates and sources, in place."""
    start, stop = max(first, known.first_step), min(first + len(rates) - 1, known.last_step)
    if start > stop:
        return
    values = known.rates[start - known.first_step : stop - known.first_step + 1].double()
    if values.shape[1] == 1:
        values = values * torch.tensor(_proportions(groups), dtype=torch.float64)
    if values.shape[1] != len(groups):
        raise InputError(
            f"{known.origin} has learning rates of {values.shape[1]} parameter groups, the "
            f"optimiser of the checkpoints has {len(groups)}. Give one column, or one a group."
        )
    rates[start - first : stop - first + 1] = values
    sources[start - first : stop - first + 1] = SOURCES.index(known.source)


def _proportions(groups: Sequence[ParameterGroup]) -> list[float]:
    """Return every group's learning rate as a multiple of the first group's."""
    rates = [group.learning_rate for group in groups]
    if not rates[0]:  # a schedule that has ended at 0
        rates = [group.rate_at_begin for group in groups]
    return [rate / rates[0] if rates[0] else 1.0 for rate in rates]
