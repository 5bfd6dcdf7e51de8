"""The learning rate and momentum of the steps that count for each checkpoint, and their step mass.

A checkpoint stands for the steps since the one before in its stage; a stage's last one also
for those up to the stage's end. What is not known of them is filled in: the same value at both
ends is taken as constant, unless a scheduler moved the rate; different ones as a straight line.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self

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
    """Learning rates of consecutive steps, and momentum where it is known too.

    Attributes:
        first_step: Number of the first, the first of the training being 1.
        rates: [steps, groups], or [steps, 1] for the first group; the others then keep their
            proportion to it.
        source: Where they come from.
        origin: The same in words.
        momenta: [steps, groups].
        guessed: Which of them are a guess after all, [steps].
    """

    first_step: int
    rates: Tensor
    source: RateSource
    origin: str
    momenta: Tensor | None = None
    guessed: Tensor | None = None

    def behind(self, step: int) -> Self:
        """Return those of later steps."""
        skipped = max(0, step + 1 - self.first_step)
        return replace(
            self,
            first_step=self.first_step + skipped,
            rates=self.rates[skipped:],
            momenta=None if self.momenta is None else self.momenta[skipped:],
            guessed=None if self.guessed is None else self.guessed[skipped:],
        )

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
        interpolated_share: Their share of the checkpoint's step mass, 0 to 1.
        momentum_guessed: Whether momentum changed over the steps and nothing says for sure when.
        origins: Where rates come from, in words, in the order of the steps.
    """

    first_step: int
    last_step: int
    source: RateSource
    interpolated_steps: int
    interpolated_share: float
    momentum_guessed: bool = False
    origins: tuple[str, ...] = ()


def sum_rates(
    records: Sequence[CheckpointRecord],
    *,
    stage_ends: Mapping[str, int] | None = None,
    known: Sequence[KnownRates] = (),
    scheduled: Collection[str] = (),
) -> tuple[list[CheckpointRecord], list[CheckpointRates]]:
    """Return the records with every group's `step_mass`, and where the rates came from.

    Args:
        records: Checkpoints in order, as `check_order` accepts them.
        stage_ends: Stage -> its last step, counted over the whole training.
        known: Learning rates that are known, the surest first.
        scheduled: Stages in which a scheduler was saved: no rate is taken as constant there.

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
        steps = _Steps.between(record, before, first, last, scheduled=record.stage in scheduled)
        origins = steps.origins(known)
        for one in reversed(known):
            steps.overlay(one, record.parameter_groups)
        masses = steps.masses(record.parameter_groups)
        sums = masses.sum(0).tolist()
        summed.append(
            replace(
                record,
                groups=tuple(
                    replace(group, step_mass=total)
                    for group, total in zip(record.parameter_groups, sums, strict=True)
                ),
            )
        )
        guessed = steps.sources == SOURCES.index("interpolated")
        described.append(
            CheckpointRates(
                first,
                last,
                SOURCES[int(steps.sources.max())] if len(guessed) else "constant",
                int(guessed.sum()),
                float(masses[guessed, 0].sum() / sums[0]) if sums[0] else 0.0,
                bool(steps.guessed_momentum.any()),
                origins,
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


@dataclass(frozen=True)
class _Steps:
    """Consecutive steps, changed in place by what is known of them.

    Attributes:
        first: Number of the first.
        rates, momenta: [steps, groups].
        sources: Places in `SOURCES`, [steps].
        guessed_momentum: Where momentum changed and nothing says for sure when, [steps].
    """

    first: int
    rates: Tensor
    momenta: Tensor
    sources: Tensor
    guessed_momentum: Tensor

    @classmethod
    def between(
        cls,
        record: CheckpointRecord,
        before: CheckpointRecord | None,
        first: int,
        last: int,
        *,
        scheduled: bool,
    ) -> Self:
        """Return the steps where nothing but the ends is known."""
        groups = record.parameter_groups
        count = max(0, last - first + 1)
        rate = _column([group.learning_rate for group in groups])
        momentum = earlier_momentum = _column([group.momentum for group in groups])
        begin = _column([group.rate_at_begin for group in groups])
        if (
            before is not None
            and before.stage == record.stage
            and len(before.parameter_groups) == len(groups)
        ):
            begin = _column([group.learning_rate for group in before.parameter_groups])
            earlier_momentum = _column([group.momentum for group in before.parameter_groups])
        inside = max(0, record.step - first + 1)
        # The middle of each step, so that the sum is that of the line.
        position = (torch.arange(count, dtype=torch.float64) + 0.5) / max(inside, 1)
        position = position.clamp(max=1.0).unsqueeze(1)
        rates = begin + position * (rate - begin)
        momenta = earlier_momentum + position * (momentum - earlier_momentum)
        rates[inside:], momenta[inside:] = rate, momentum
        scheduled |= any(group.initial_learning_rate is not None for group in groups)
        constant = torch.equal(rate, begin) and not scheduled
        source = SOURCES.index("constant" if constant else "interpolated")
        cycles = any(group.momentum_cycles for group in groups)
        guessed = torch.full((count,), cycles)
        guessed[:inside] |= not torch.equal(momentum, earlier_momentum)
        return cls(first, rates, momenta, torch.full((count,), source, dtype=torch.uint8), guessed)

    def origins(self, known: Sequence[KnownRates]) -> tuple[str, ...]:
        """Say where rates come from, once what is known, the surest first, is put in."""
        left = torch.ones(len(self.rates), dtype=torch.bool)
        found = []
        for one in known:
            own = left[max(0, one.first_step - self.first) : max(0, one.last_step - self.first + 1)]
            if own.any():
                found.append(one.origin)
            own[:] = False
        if left.any():
            line = self.sources.max() == SOURCES.index("interpolated")
            form = "a straight line" if line else "constant"
            found.append(f"assumed: {form} between the checkpoints")
        return tuple(dict.fromkeys(found))

    def overlay(self, known: KnownRates, groups: Sequence[ParameterGroup]) -> None:
        """Put in what is known."""
        start = max(self.first, known.first_step)
        stop = min(self.first + len(self.rates) - 1, known.last_step)
        if start > stop:
            return
        those = slice(start - known.first_step, stop - known.first_step + 1)
        own = slice(start - self.first, stop - self.first + 1)
        values = known.rates[those].double()
        if values.shape[1] == 1:
            values = values * _column(_proportions(groups))
        if values.shape[1] != len(groups):
            raise InputError(
                f"{known.origin}: learning rates of {values.shape[1]} parameter groups, the "
                f"optimiser of the checkpoints has {len(groups)}. Give one column, or one a group."
            )
        self.rates[own] = values
        guessed = False if known.guessed is None else known.guessed[those]
        self.sources[own] = SOURCES.index(known.source)
        self.sources[own][guessed] = SOURCES.index("interpolated")
        if known.momenta is not None:
            self.momenta[own] = known.momenta[those]
            self.guessed_momentum[own] = guessed

    def masses(self, groups: Sequence[ParameterGroup]) -> Tensor:
        """Return every step's share of the step mass, [steps, groups]."""
        dampening = _column([group.dampening for group in groups])
        # See `ParameterGroup.step_factor`.
        factor = torch.where(self.momenta > 0, (1 - dampening) / (1 - self.momenta), 1.0)
        return self.rates * factor


def _column(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _proportions(groups: Sequence[ParameterGroup]) -> list[float]:
    """Return every group's learning rate as a multiple of the first group's."""
    rates = [group.learning_rate for group in groups]
    if not rates[0]:  # a schedule that has ended at 0
        rates = [group.rate_at_begin for group in groups]
    return [rate / rates[0] if rates[0] else 1.0 for rate in rates]
