"""Scores by groups of layers and ranges of training examples, each a unit that is done once.

A score is a sum over layers. A unit of the first group keeps what its layers give to the scores of
a range, one of the next adds to what it finds, and one of the last writes the range's rows of every
table. The queries' responses to a group are units of their own, before its scores
(`pipelines.source_scoring.responses`): kept with the scores where all layers are one group, which
bounds their size by the memory that holds them, and dropped behind a group where there are several.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import polars as pl

from sourcetrace.core.curvature.blocks import SegmentCurvature
from sourcetrace.core.layers.layer import Layer
from sourcetrace.core.machine.memory import return_freed, start_peak
from sourcetrace.core.methods.preparation import Prepared
from sourcetrace.core.methods.score import BlockScores
from sourcetrace.core.methods.scorers import MeanScorer
from sourcetrace.core.model.examples import Block, Examples
from sourcetrace.core.responses.score_check import ScoreCheck
from sourcetrace.datasets.tensor_file import TensorFile
from sourcetrace.pipelines.ekfac_fitting.work import fit
from sourcetrace.pipelines.set_up.audit_setup import AuditSetup
from sourcetrace.pipelines.set_up.units import do, until_settled
from sourcetrace.pipelines.source_scoring.parts import file_of, write_range
from sourcetrace.pipelines.source_scoring.preparation import Preparation
from sourcetrace.pipelines.source_scoring.ranges import Ranges, Task, needed, parts_of
from sourcetrace.pipelines.source_scoring.responses import (
    GroupResponses,
    fitted_of,
    preparation_of,
)
from sourcetrace.pipelines.source_scoring.tables import TABLES, tables_of
from sourcetrace.work.unit import KeptFile, Unit

_STAGE = "source_scoring"


@dataclass(frozen=True)
class Scored:
    """The scores of all training examples, as they are kept.

    Attributes:
        parts: Files of each of `TABLES`, of the same examples, in their order; in other processes
            than the first there are none.
        preparation: Of the queries.
    """

    parts: Sequence[tuple[KeptFile, ...]]
    preparation: Preparation


def score(setup: AuditSetup) -> Scored:
    """Score all training examples for the queries of an audit."""
    start_peak(setup.engine.device)
    with setup.engine.timings.timed(_STAGE):
        found = until_settled(setup, lambda: _scored(setup, fit(setup).curvature))
    # Of an audit, nobody asks for gradients behind the scores.
    setup.cache.forget()
    return_freed()
    return found


def _scored(setup: AuditSetup, curvature: Sequence[SegmentCurvature]) -> Scored:
    ledger = setup.team.ledger
    ranges = Ranges(setup)
    done, tasks = ranges.units, ranges.tasks
    groups = setup.needs.scoring.groups
    none: list[SegmentCurvature | None] = [None] * len(setup.plan.segments)
    kept: list[Unit] = []
    for number, (layers, wanted) in enumerate(zip(groups, needed(tasks, ledger), strict=True)):
        responses = GroupResponses(setup, curvature or none, layers, number)
        group = _Group(setup, responses)
        if not all(ledger.is_over(one.unit) for one in wanted):
            _ = responses.settled
        do(setup, {one.unit: partial(group.do, one) for one in wanted}, "Scoring")
        kept += responses.units
        if setup.team.rank == 0:
            ledger.drop(one.before for one in wanted if one.before)
            ledger.drop(responses.units if len(groups) > 1 else [])
    do(setup, ranges.gathering, "Gathering rows")
    if setup.team.rank == 0:
        ledger.drop(one.unit for one in tasks[-1] if one.unit not in done)
    preparation = Preparation.from_json(ledger.facts(next(iter(done)))["preparation"])
    if setup.team.rank != 0:
        return Scored([], preparation)
    if ranges.gathering and not kept:  # no row was missing: nobody has asked for the responses
        kept = [one for one in ledger.others(_STAGE, []) if "known" not in one.made_of]
    if kept:  # else nothing was missing, and nothing is known of what there is beside
        setup.team.prune([*done, *kept])
    parts = [
        tuple(ledger.file(unit, file_of(name, part)) for name in TABLES)
        for unit, examples in done.items()
        for part in parts_of(setup, examples)
    ]
    return Scored(parts, preparation)


@dataclass(frozen=True)
class _Group:
    """Does a group's units.

    Attributes:
        setup: Of the audit.
        responses: Of the queries to its layers.
    """

    setup: AuditSetup
    responses: GroupResponses

    def do(self, task: Task, folder: Path) -> dict[str, Any]:
        """Write the scores of a unit's range."""
        setup = self.setup
        if self.responses.layers is setup.needs.scoring.groups[-1]:
            parts = parts_of(setup, task.examples)
            write_range(setup, folder, ((part, self._rows(task, part)) for part in parts))
        else:
            for block, found in self._scores(task, task.examples):
                TensorFile(folder / str(block.start)).write(found.tensors())
        return {} if task.examples.start else {"preparation": self._preparation(task).to_json()}

    def _rows(self, task: Task, part: Block) -> Iterator[pl.DataFrame]:
        """Yield a part's rows of each of `TABLES`."""
        rows = [tables_of(self.setup, *one) for one in self._scores(task, part)]
        return map(pl.concat, zip(*rows, strict=True))

    def _scores(self, task: Task, part: Block) -> Iterator[tuple[Block, BlockScores]]:
        """Yield every block of a part of a range with its scores by the layers so far."""
        ledger, device = self.setup.team.ledger, self.setup.engine.device
        before = ledger.folder(task.before) if task.before else None
        scorer = self._scorer
        for block in self.setup.grid.blocks(part):
            found = scorer.scores(block)
            if before:
                kept = TensorFile(before / str(block.start)).read()
                found = BlockScores.of_tensors({k: v.to(device) for k, v in kept.items()}) + found
            yield block, found

    @cached_property
    def _scorer(self) -> MeanScorer:
        setup, group = self.setup, self.responses
        return scorer_of(setup, group.curvature, setup.queries, group.layers, group.prepared())

    def _preparation(self, task: Task) -> Preparation:
        """Return that of the layers so far."""
        own = self.responses.preparation
        if task.before is None:
            return own
        said = self.setup.team.ledger.facts(task.before)["preparation"]
        return Preparation.from_json(said) + own


def scorer_of(
    setup: AuditSetup,
    curvature: Sequence[SegmentCurvature | None],
    queries: Examples,
    layers: Sequence[Layer],
    found: Sequence[tuple[Prepared, ScoreCheck]] = (),
) -> MeanScorer:
    """Return what scores training examples for some queries by a group of layers.

    Args:
        setup: Of the audit.
        curvature: Of every segment; None where the method needs none.
        queries: The audit's, or others.
        layers: The group.
        found: Of every member, where the queries are prepared.
    """
    return MeanScorer.of(
        preparation_of(setup, queries, layers),
        setup.plan,
        fitted_of(curvature, layers, setup.engine.device),
        found,
        higher_is_better=setup.inputs.task.measurement_higher_is_better,
    )
