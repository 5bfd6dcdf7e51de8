"""The units of gradient extraction: a range of the examples at a point, by a group of layers.

Where there are several ranges, their sums are added to the point's, in their order, and are
dropped; their rows are linked. Where there is one, it is the point's. Sums know no given label;
where labels are others than those of the rows beside them, the point's rows are a unit of their
own, for which only the examples are visited whose rows are nowhere.
"""

from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import polars as pl

from sourcetrace.core.engine.blame import UnusableError
from sourcetrace.core.model.examples import Block, EvaluationPoint, Picked
from sourcetrace.pipelines.gradient_extraction.extracted import Extracted
from sourcetrace.pipelines.gradient_extraction.rows import (
    TABLES,
    signal_rows,
    sketch_rows,
    write_table,
    write_training,
)
from sourcetrace.pipelines.gradient_extraction.sums import STAGE, PointSums
from sourcetrace.pipelines.set_up.audit_setup import AuditSetup
from sourcetrace.pipelines.set_up.kept_rows import KeptRows, units_like
from sourcetrace.pipelines.set_up.units import Work, do_summed, passes_parts, until_settled
from sourcetrace.work.unit import Unit


def extract(setup: AuditSetup) -> Extracted:
    """Do what is missing of the passes at all points, and return what they gave."""

    def work() -> Extracted:
        found = extracted(setup)
        if setup.team.rank == 0:
            for unit in units_of(setup):  # so that a damaged one is found here
                setup.team.ledger.folder(unit)
        return found

    return until_settled(setup, work)


def units_of(setup: AuditSetup) -> list[Unit]:
    """Return the units whose files have what the passes gave, as far as it is known."""
    return [unit for one in _points(setup) for unit in one.units]


def visits_all(setup: AuditSetup) -> bool:
    """Return whether sums are missing, and not rows of a few examples alone."""
    sums = [own.unit for one in _points(setup) for own in one.sums]
    return bool(setup.team.ledger.missing(sums))


def extracted(setup: AuditSetup) -> Extracted:
    """Do what is missing, as a part of another stage's work; no file of what is done is read."""
    points = _points(setup)
    setup.cache.restart(setup.grid.policy)
    ranged = any(len(one.parts) > 1 for point in points for one in point.sums)
    # The parts of a point's sums make room for the next point's.
    for some in [[one] for one in points] if ranged else [points]:
        do_summed(
            setup,
            [own for one in some for own in one.sums],
            "Extracting gradients",
            "Adding covariances",
            beside={one.queries: one.measure for one in some},
        )
    others = [one for one in points if not one.has_rows]
    do_summed(setup, others, "Visiting changed examples", "Gathering rows")
    setup.team.prune(units_of(setup))
    return Extracted(
        setup.team.ledger,
        {one.point.id: one.rows for one in points},
        {one.point.id: one.queries for one in points},
        {one.point.id: [own.unit for own in one.sums] for one in points},
    )


@dataclass(frozen=True)
class _Point:
    """What is extracted at a point; as a sum, its rows where those beside its sums are no more so.

    Attributes:
        setup: Of the audit.
        point: The weights.
        curved: The same with the examples of the curvature.
        sketched: Whether sketches are taken.
    """

    setup: AuditSetup
    point: EvaluationPoint
    curved: EvaluationPoint
    sketched: bool

    @cached_property
    def sums(self) -> list[PointSums]:
        """Of every group of layers."""
        groups = self.setup.needs.extraction.groups
        return [
            PointSums(
                self.setup.curvature, self.curved, group, not number, self.sketched and not number
            )
            for number, group in enumerate(groups)
        ]

    @property
    def units(self) -> list[Unit]:
        """Those whose files are read, as far as it is known."""
        ledger, sums = self.setup.team.ledger, [one.unit for one in self.sums]
        rows = [self.rows] if ledger.is_logged(sums[0]) and not self.has_rows else []
        return [*sums, *rows, self.queries]

    @property
    def has_rows(self) -> bool:
        """Whether the rows beside the sums are those of the labels."""
        wanted = self.setup.contents.digest(self.point.examples, labels=True)
        said: str = self.setup.team.ledger.facts(self.sums[0].unit)["rows"]
        return said == wanted

    @property
    def rows(self) -> Unit:
        """What has the rows, once the sums are done."""
        return self.sums[0].unit if self.has_rows else self.unit

    @cached_property
    def unit(self) -> Unit:
        """What has the rows, where they are not beside the sums."""
        return self._unit("rows", self._every, labels=True)

    @cached_property
    def parts(self) -> Work:
        """What visits the examples whose rows are nowhere."""
        left = self._kept().left
        cut = Picked.of(left).cut(self.setup.grid.range_size) if left else []
        return {
            self._unit(f"rows/{one.start:09d}-{one.stop:09d}", one, labels=True): partial(
                self._visit, one
            )
            for one in cut
        }

    def join(self, folder: Path) -> None:
        """Gather the rows."""
        kept = self._kept(*self.parts)
        for name in TABLES:
            write_table(folder, name, kept.tables(name, self._every), self._every)
        self.setup.contents.write(folder, self._every, self.point.examples)

    @cached_property
    def queries(self) -> Unit:
        """What has the queries' rows."""
        return self._unit("queries", Block(0, 0), labels=False)

    def measure(self, folder: Path) -> None:
        """Run the queries' forward passes."""
        engine, queries = self.setup.engine, self.setup.queries
        tables, sketches = [], []
        for block in queries.blocks(engine.batch_size):
            found = engine.query_signals(queries, self.point, block, sketched=self.sketched)
            tables.append(signal_rows(found, queries, self.point))
            sketches += sketch_rows(found, queries, "query")
        pl.concat(tables).write_parquet(folder / "signals-queries.parquet")
        write_table(folder, "sketches", sketches, Block(0, len(queries)))

    def _visit(self, examples: Block, folder: Path) -> None:
        engine, rows = self.setup.engine, []
        for block in self.setup.grid.blocks(examples):
            with suppress(UnusableError):  # all that was left of the block is set aside
                rows.append(engine.extract(self.point, block, sketched=self.sketched).signals)
        write_training(self.setup.contents, engine.training, self.point, folder, examples, rows)

    def _kept(self, *parts: Unit) -> KeptRows:
        ledger = self.setup.team.ledger
        units = [*parts, self.sums[0].unit, *units_like(ledger, self.unit)]
        return KeptRows.of(self.setup.contents, ledger, units, self.point.examples)

    @property
    def _every(self) -> Block:
        return Block(0, len(self.setup.engine.training))

    def _unit(self, name: str, block: Block, *, labels: bool) -> Unit:
        layers = [self.setup.engine.coverage.layers]
        return self.setup.unit(
            STAGE,
            f"{self.point.id}/{name}",
            reads=(),
            cost=len(block) or len(self.setup.queries),
            sketched=str(self.sketched),
            **passes_parts(self.setup, [self.point], block, layers, labels=labels),
        )


def _points(setup: AuditSetup) -> list[_Point]:
    # Sketches at one set of weights, for those at different ones do not compare.
    last = setup.plan.members[-1].final.id
    points = zip(setup.plan.points, setup.curvature.plan.points, strict=True)
    return [_Point(setup, one, curved, one.id == last) for one, curved in points]
