"""What the files of a training say of its learning rates."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby

from sourcetrace.checkpoints.folder import Checkpoint, CheckpointFolder
from sourcetrace.checkpoints.training.scheduler_state import scheduled_rates
from sourcetrace.core.training.schedules import KnownRates
from sourcetrace.core.training.segments import CheckpointRecord
from sourcetrace.errors import InputError


def known_rates(
    found: Sequence[Checkpoint], records: Sequence[CheckpointRecord], folder: CheckpointFolder
) -> list[KnownRates]:
    """Return what files say of learning rates, the surest first.

    Raises:
        InputError: If checkpoints, or a file of rates, have them of other steps or groups.
    """
    recorded = []
    for index, (one, record) in enumerate(zip(found, records, strict=True)):
        before = records[index - 1].step if index else 0
        rates = one.training.learning_rates
        if rates is not None:
            if len(rates) not in (record.step, record.step - before):
                raise InputError(
                    f"{one.file}: learning_rates has {len(rates)} values; expected {record.step}, "
                    f"one a step so far, or {record.step - before}, one a step since the "
                    "checkpoint before."
                )
            origin = f"{one.training.sources.get('learning_rates', 'learning_rates')} in {one.file}"
            recorded.append(KnownRates(record.step - len(rates) + 1, rates, "recorded", origin))
    listed = folder.learning_rates(records[-1].step)
    rebuilt = _rebuilt(found, records, folder.stage_ends)
    logged = _logged(found, records)
    return [*recorded, *([] if listed is None else [listed]), *rebuilt, *logged]


def _logged(
    found: Sequence[Checkpoint], records: Sequence[CheckpointRecord]
) -> Iterator[KnownRates]:
    """Yield what logs say: the last checkpoint of a training has all of its log."""
    followed, begun = set(), set()
    for index in reversed(range(len(found))):
        one, record = found[index], records[index]
        earlier = record.step - one.training.step  # in stages before, not in this log
        if one.training.logged is None or earlier in followed:
            continue
        before = max(records[index - 1].step if index else 0, earlier)
        spans = [before] if earlier in begun else [earlier, before]
        begun.add(earlier)
        for begin in spans:
            known = one.training.logged.known(
                begin + 1 - earlier,
                one.training.step,
                following=record.parameter_groups[0].learning_rate,
                base=record.parameter_groups[0].initial_learning_rate,
                origin=f"log of {one.file}",
            )
            if begin == before or known.source == "reconstructed":
                yield replace(known, first_step=begin + 1)
            if begin == earlier and known.source == "reconstructed":
                followed.add(earlier)
                break


def _rebuilt(
    found: Sequence[Checkpoint], records: Sequence[CheckpointRecord], ends: Mapping[str, int]
) -> Iterator[KnownRates]:
    """Yield what the saved schedulers say, stage after stage."""
    begin = 0
    for stage, members in groupby(zip(found, records, strict=True), key=lambda one: one[1].stage):
        own = list(members)
        last = own[-1][1]
        saved = [
            (record.step, one.training.scheduler)
            for one, record in own
            if one.training.scheduler is not None
        ]
        # A scheduler that was stepped as often as the optimiser ever was is not the stage's own.
        made = 0 if all(one.epochs == step for step, one in saved) else begin
        end = last.step if last is records[-1] else max(last.step, ends.get(stage, 0))
        if saved:
            for known in scheduled_rates(
                [(step - made, one) for step, one in saved],
                steps=end - made,
                origin=f"scheduler in {own[-1][0].file}",
            ):
                yield replace(known, first_step=made + known.first_step).behind(begin)
        begin = end
