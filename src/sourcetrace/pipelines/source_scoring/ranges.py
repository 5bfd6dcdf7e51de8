"""The units of scoring: ranges of the training examples by groups of layers, and what they need.

Where rows of a range are in units of earlier data, with all that decides them the same, those of
the other examples alone are scored, in ranges of their own, and the range's rows are gathered.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import polars as pl
import torch

from sourcetrace.core.model.examples import Block, Picked
from sourcetrace.core.plan.methods import METHODS
from sourcetrace.files import digest_of
from sourcetrace.pipelines.set_up.audit_setup import AuditSetup
from sourcetrace.pipelines.set_up.kept_rows import KeptRows, units_like
from sourcetrace.pipelines.set_up.units import Work
from sourcetrace.pipelines.source_scoring.parts import write_range
from sourcetrace.pipelines.source_scoring.tables import TABLES
from sourcetrace.work.ledger import Ledger
from sourcetrace.work.unit import Unit

_STAGE = "source_scoring"

_AT_ONCE = 2**22
"""Scores of a file, which a process holds some ten times as it writes them, and a reader once."""


@dataclass(frozen=True)
class Task:
    """What a unit is to do.

    Attributes:
        unit: The unit.
        examples: Its range.
        before: The unit of the range whose scores it adds to; None in the first group.
    """

    unit: Unit
    examples: Block
    before: Unit | None


@dataclass(frozen=True)
class Ranges:
    """The ranges of an audit, and what is to be done for their rows."""

    setup: AuditSetup

    @cached_property
    def units(self) -> Mapping[Unit, Block]:
        """What has the rows of each range, in their order."""
        return {one.unit: one.examples for one in self._whole[-1]}

    @cached_property
    def tasks(self) -> list[list[Task]]:
        """Every group's: of the ranges, or of the examples whose rows are nowhere."""
        if not self._kept:
            return self._whole
        left = self._found(self._kept).left
        if len(left) == sum(map(len, self._missing.values())):
            return self._whole
        return _tasks(self.setup, Picked.of(left).cut(self.setup.grid.range_size) if left else [])

    @cached_property
    def gathering(self) -> Work:
        """What gathers each range's rows, where they are not scored as they are."""
        if self.tasks is self._whole:
            return {}
        return {unit: partial(self._gather, block) for unit, block in self._missing.items()}

    def _gather(self, examples: Block, folder: Path) -> dict[str, Any]:
        rows = (
            (part, [pl.concat(self._gathered.tables(name, part)) for name in TABLES])
            for part in parts_of(self.setup, examples)
        )
        write_range(self.setup, folder, rows)
        if examples.start:
            return {}
        said = map(self.setup.team.ledger.facts, self._sources)
        return {"preparation": next(one["preparation"] for one in said if "preparation" in one)}

    @cached_property
    def _whole(self) -> list[list[Task]]:
        return _tasks(self.setup, self.setup.grid.ranges(len(self.setup.engine.training)))

    @cached_property
    def _missing(self) -> Mapping[Unit, Block]:
        """Those that are not done."""
        return {one: self.units[one] for one in self.setup.team.ledger.missing(self.units)}

    @cached_property
    def _kept(self) -> list[Unit]:
        """Units of earlier data that may have their rows.

        There are none where scores are not kept, of which a range's strongest would be told.
        """
        if self.setup.attribution.precision.stored_scores == "strongest":
            return []
        first, last = next(iter(self.units)), f"g{len(self._whole) - 1}/"
        like = units_like(self.setup.team.ledger, first) if self._missing else []
        return [one for one in like if one not in self.units and one.name.startswith(last)]

    @property
    def _sources(self) -> list[Unit]:
        return [*(one.unit for one in self.tasks[-1]), *self._kept]

    @cached_property
    def _gathered(self) -> KeptRows:
        return self._found(self._sources)

    def _found(self, units: Sequence[Unit]) -> KeptRows:
        ledger, contents = self.setup.team.ledger, self.setup.contents
        numbers = (one.numbers for one in self._missing.values())
        return KeptRows.of(contents, ledger, units, torch.cat([torch.arange(0), *numbers]))


def _tasks(setup: AuditSetup, ranges: Sequence[Block]) -> list[list[Task]]:
    """Return every group's, in the order of the ranges."""
    contents, curved = setup.contents, setup.curvature.contents
    takes_all = METHODS[setup.attribution.method].scoring in ("exact solves", "projections")
    found: list[list[Task]] = []
    for number, layers in enumerate(setup.needs.scoring.groups):
        names = digest_of([layer.name for layer in layers])
        found.append([])
        for place, one in enumerate(ranges):
            before = found[-2][place].unit if number else None
            unit = setup.unit(
                _STAGE,
                f"g{number}/{one.start:09d}-{one.stop:09d}",
                reads=[before] if before else [],
                cost=len(one),
                layers=names,
                known=curved.all_labelled if takes_all else curved.all_inputs,
                examples=contents.digest(one.numbers, labels=True),
            )
            found[-1].append(Task(unit, one, before))
    return found


def needed(tasks: Sequence[Sequence[Task]], ledger: Ledger) -> list[list[Task]]:
    """Return those of every group whose range no later group has done."""
    found: list[list[Task]] = []
    places: Sequence[int] = range(len(tasks[-1]))
    for group in reversed(tasks):
        found.insert(0, [group[place] for place in places])
        places = [place for place in places if not ledger.is_logged(group[place].unit)]
    return found


def parts_of(setup: AuditSetup, examples: Block) -> list[Block]:
    """Return the examples of a range that have a file of each table, whole batches."""
    batch = setup.grid.batch_size
    return examples.cut(max(1, _AT_ONCE // (batch * len(setup.queries))) * batch)
