"""Rows of a point whose sums stand, though labels have changed since they were made."""

from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from sourcetrace.core.engine.blame import UnusableError
from sourcetrace.core.model.examples import Block, EvaluationPoint, Picked
from sourcetrace.pipelines.gradient_extraction.rows import TABLES, write_table, write_training
from sourcetrace.pipelines.shared.kept_rows import KeptRows, units_like, write_contents
from sourcetrace.pipelines.shared.units import AuditSetup, Work, passes_parts
from sourcetrace.work.unit import Unit

_STAGE = "gradient_extraction"


@dataclass(frozen=True)
class OtherRows:
    """A point's rows, where some labels are others than when its sums were made.

    Attributes:
        setup: Of the audit.
        point: The weights.
        sums: The unit that has the sums, and rows.
        sketched: Whether sketches are taken.
    """

    setup: AuditSetup
    point: EvaluationPoint
    sums: Unit
    sketched: bool

    @cached_property
    def parts(self) -> Work:
        """What visits the examples whose rows are nowhere."""
        left = self._kept().left
        cut = Picked.of(left).cut(self.setup.grid.range_size) if left else []
        return {self._unit(one): partial(self._visit, one) for one in cut}

    @cached_property
    def unit(self) -> Unit:
        """What has all rows."""
        return self._unit(Block(0, len(self.setup.engine.training)))

    def join(self, folder: Path) -> None:
        """Gather the rows."""
        kept = self._kept(*self.parts)
        every = Block(0, len(self.setup.engine.training))
        for name in TABLES:
            write_table(folder, name, kept.tables(name, every), every)
        write_contents(self.setup, folder, every, self.point.examples)

    def _kept(self, *parts: Unit) -> KeptRows:
        units = [*parts, self.sums, *units_like(self.setup, self.unit)]
        return KeptRows.of(self.setup, units, self.point.examples)

    def _visit(self, examples: Block, folder: Path) -> None:
        setup = self.setup
        rows = []
        for block in setup.grid.blocks(examples):
            with suppress(UnusableError):  # all that was left of the block is set aside
                passed = setup.engine.extract(self.point, block, sketched=self.sketched)
                rows.append(passed.signals)
        write_training(setup, self.point, folder, examples, rows)

    def _unit(self, block: Block) -> Unit:
        layers = [self.setup.engine.coverage.layers]
        return self.setup.unit(
            _STAGE,
            f"{self.point.id}/rows/{block.start:09d}-{block.stop:09d}",
            reads=(),
            cost=len(block),
            sketched=str(self.sketched),
            **passes_parts(self.setup, [self.point], block, layers, labels=True),
        )
