"""A point's covariance sums, by groups of layers and ranges of the examples."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial, reduce
from operator import add
from pathlib import Path

from torch import Tensor

from sourcetrace.core.curvature.covariance import CovarianceSums, RunningCovariances
from sourcetrace.core.engine.blame import UnusableError
from sourcetrace.core.engine.results import BlockSignals
from sourcetrace.core.layers.layer import Layer
from sourcetrace.core.model.examples import Block, EvaluationPoint
from sourcetrace.core.model.precision import products_in
from sourcetrace.datasets.tensor_file import LayersOfFile, LazyLayers
from sourcetrace.files import link_file
from sourcetrace.pipelines.gradient_extraction.extracted import SUMS, sums_of
from sourcetrace.pipelines.gradient_extraction.rows import write_training, written
from sourcetrace.pipelines.set_up.audit_setup import AuditSetup
from sourcetrace.pipelines.set_up.kept_curvature import write_data
from sourcetrace.pipelines.set_up.units import Work, passes_parts
from sourcetrace.work.unit import Unit

STAGE = "gradient_extraction"


@dataclass(frozen=True)
class PointSums:
    """A point's covariance sums of a group of layers; of the first group, its rows as well.

    Attributes:
        setup: Of the audit.
        point: The weights.
        group: The layers.
        first: Whether it is the first group.
        sketched: Whether sketches are taken.
    """

    setup: AuditSetup
    point: EvaluationPoint
    group: tuple[Layer, ...]
    first: bool
    sketched: bool

    @cached_property
    def parts(self) -> Work:
        """What does its ranges, in their order."""
        setup = self.setup
        ranges = setup.grid.ranges(len(setup.engine.training))
        needed = [one for one in ranges if len(self._rows(one))] or ranges[:1]
        return {
            self._unit(one if len(needed) > 1 else None): partial(self._extract, one)
            for one in needed
        }

    @cached_property
    def unit(self) -> Unit:
        """What has the sums of all ranges."""
        parts = list(self.parts)
        return parts[0] if len(parts) == 1 else self._unit(None, reads=parts)

    def join(self, folder: Path) -> dict[str, str]:
        """Add the ranges' sums, and link their rows."""
        folders = [self.setup.team.ledger.folder(one) for one in self.parts]
        found = [sums_of(own) for own in folders]

        def added(name: str) -> CovarianceSums:
            return reduce(add, (layers[name] for layers in found if name in layers))

        names = dict.fromkeys(name for layers in found for name in layers)
        LayersOfFile.write(folder / SUMS, {"sums": LazyLayers(names, added)})
        for rows in (file for own in folders for file in own.glob("*.parquet")):
            link_file(rows, folder / rows.name)
        return written(folder)

    def _rows(self, block: Block) -> Tensor:
        rows = self.point.rows(block)
        return rows if self.first else rows[self.point.in_curvature(rows)]

    def _extract(self, examples: Block, folder: Path) -> dict[str, str]:
        engine = self.setup.engine
        precision = self.setup.attribution.precision.curvature
        running = RunningCovariances()
        rows: list[BlockSignals] = []
        for block in self.setup.grid.blocks(examples):
            if not len(self._rows(block)):
                continue
            try:
                if self.first:
                    passed = engine.extract(self.point, block, sketched=self.sketched)
                    rows.append(passed.signals)
                    found = passed.covariances
                else:
                    found = engine.of_layers(self.group).covariances(self.point, block)
            except UnusableError:  # all that was left of the block is set aside
                continue
            with products_in(precision, engine.device):
                running.add({layer.name: found[layer.name] for layer in self.group})
        with products_in(precision, engine.device):
            LayersOfFile.write(folder / SUMS, {"sums": running.sums()})
        contents = self.setup.contents
        write_training(contents, engine.training, self.point, folder, examples, rows)
        if self.sketched:  # at the last point, where all examples are
            write_data(folder, examples, contents, self.setup.inputs.train_table)
        return written(folder)

    def _unit(self, block: Block | None, reads: Sequence[Unit] = ()) -> Unit:
        setup, name = self.setup, f"{self.point.id}/{self.group[0].name}"
        whole = Block(0, len(setup.engine.training))
        # Passes of the first group are of all layers.
        layers = [self.group, setup.engine.coverage.layers if self.first else ()]
        return setup.unit(
            STAGE,
            name if block is None else f"{name}/{block.start:09d}-{block.stop:09d}",
            reads=reads,
            cost=len(self._rows(block or whole)),
            sketched=str(self.sketched),
            **passes_parts(setup, [self.point], block or whole, layers),
        )
