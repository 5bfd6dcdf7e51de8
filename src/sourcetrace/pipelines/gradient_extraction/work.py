"""The units of gradient extraction: a range of the examples at a point, by a group of layers.

Where there are several ranges, their sums are added to the point's, in their order, and are
dropped; their rows are linked. Where there is one, it is the point's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial, reduce
from operator import add
from pathlib import Path

import polars as pl
from torch import Tensor

from sourcetrace.core.curvature.covariance import (
    CovarianceSums,
    LayerCovariances,
    RunningCovariances,
)
from sourcetrace.core.engine.blame import UnusableError
from sourcetrace.core.layers.layer import Layer
from sourcetrace.core.model.examples import Block, EvaluationPoint
from sourcetrace.core.model.precision import products_in
from sourcetrace.datasets.tensor_file import LayersOfFile, LazyLayers
from sourcetrace.files import link_file
from sourcetrace.pipelines.gradient_extraction.rows import signal_rows, sketch_rows
from sourcetrace.pipelines.shared.units import (
    AuditSetup,
    Work,
    do_summed,
    passes_parts,
    until_settled,
)
from sourcetrace.schemas.scores import ContentSketches, ExampleSignals
from sourcetrace.schemas.table import Table
from sourcetrace.work.ledger import Ledger
from sourcetrace.work.unit import Unit

_STAGE = "gradient_extraction"

_SUMS = "sums.safetensors"


@dataclass(frozen=True)
class Extracted:
    """What the passes at all points gave, read when it is asked for.

    Attributes:
        ledger: Of the units that have it.
        points: In the order of the plan.
    """

    ledger: Ledger
    points: "Sequence[_Point]"

    def at(self, points: Sequence[EvaluationPoint]) -> "Extracted":
        """Return what they gave at some of the points."""
        wanted = {one.id for one in points}
        return replace(self, points=[one for one in self.points if one.point.id in wanted])

    @property
    def signals(self) -> pl.LazyFrame:
        """A row a training example and point."""
        return self._scanned("signals", ExampleSignals.frame(), self._rows)

    @property
    def queries(self) -> pl.LazyFrame:
        """A row a query and point."""
        return self._scanned("signals", ExampleSignals.frame(), self._asked)

    @property
    def sketches(self) -> pl.LazyFrame:
        """Of what the layers see, at the last point."""
        return self._scanned("sketches", ContentSketches.frame(), self._rows + self._asked)

    @property
    def covariances(self) -> dict[str, LayerCovariances]:
        """Point id -> layer -> sums."""
        return {one.point.id: one.covariances for one in self.points}

    @property
    def sums(self) -> Mapping[str, Sequence[Unit]]:
        """Point id -> the units that have them."""
        return {one.point.id: [own.unit for own in one.sums] for one in self.points}

    @property
    def _rows(self) -> list[Unit]:
        return [own.unit for one in self.points for own in one.sums[:1]]

    @property
    def _asked(self) -> list[Unit]:
        return [one.queries for one in self.points]

    def _scanned(self, name: str, empty: pl.DataFrame, units: Sequence[Unit]) -> pl.LazyFrame:
        folders = map(self.ledger.folder, units)
        files = [file for folder in folders for file in sorted(folder.glob(f"{name}-*.parquet"))]
        found = pl.scan_parquet(files, glob=False) if files else empty.lazy()
        return found.select(empty.columns)


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
    """Return the units whose files have what the passes gave."""
    return [unit for one in _points(setup) for unit in (*(s.unit for s in one.sums), one.queries)]


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
    setup.team.prune(units_of(setup))
    return Extracted(setup.team.ledger, points)


@dataclass(frozen=True)
class _Sums:
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

    @property
    def layers(self) -> LayerCovariances:
        """The sums by layer, read when they are asked for."""
        return _sums_of(self.setup.team.ledger.folder(self.unit))

    def join(self, folder: Path) -> None:
        """Add the ranges' sums, and link their rows."""
        folders = [self.setup.team.ledger.folder(one) for one in self.parts]
        found = [_sums_of(own) for own in folders]

        def added(name: str) -> CovarianceSums:
            return reduce(add, (layers[name] for layers in found if name in layers))

        names = dict.fromkeys(name for layers in found for name in layers)
        LayersOfFile.write(folder / _SUMS, {"sums": LazyLayers(names, added)})
        for rows in (file for own in folders for file in own.glob("*.parquet")):
            link_file(rows, folder / rows.name)

    def _rows(self, block: Block) -> Tensor:
        rows = self.point.rows(block)
        return rows if self.first else rows[self.point.in_curvature(rows)]

    def _extract(self, examples: Block, folder: Path) -> None:
        engine = self.setup.engine
        precision = self.setup.attribution.precision.curvature
        running = RunningCovariances()
        tables, sketches = [], []
        for block in self.setup.grid.blocks(examples):
            if not len(self._rows(block)):
                continue
            try:
                if self.first:
                    passed = engine.extract(self.point, block, sketched=self.sketched)
                    tables.append(signal_rows(passed.signals, engine.training, self.point))
                    sketches += sketch_rows(passed.signals, engine.training, "training")
                    found = passed.covariances
                else:
                    found = engine.of_layers(self.group).covariances(self.point, block)
            except UnusableError:  # all that was left of the block is set aside
                continue
            with products_in(precision, engine.device):
                running.add({layer.name: found[layer.name] for layer in self.group})
        with products_in(precision, engine.device):
            LayersOfFile.write(folder / _SUMS, {"sums": running.sums()})
        _write(folder, examples, "signals", tables, ExampleSignals)
        _write(folder, examples, "sketches", sketches, ContentSketches)

    def _unit(self, block: Block | None, reads: Sequence[Unit] = ()) -> Unit:
        setup, name = self.setup, f"{self.point.id}/{self.group[0].name}"
        whole = Block(0, len(setup.engine.training))
        # Passes of the first group are of all layers.
        layers = [self.group, setup.engine.coverage.layers if self.first else ()]
        return setup.unit(
            _STAGE,
            name if block is None else f"{name}/{block.start:09d}-{block.stop:09d}",
            reads=reads,
            cost=len(self._rows(block or whole)),
            sketched=str(self.sketched),
            **passes_parts(setup, [self.point], block or whole, layers),
        )


@dataclass(frozen=True)
class _Point:
    """What is extracted at a point."""

    setup: AuditSetup
    point: EvaluationPoint
    sketched: bool

    @cached_property
    def sums(self) -> list[_Sums]:
        """Of every group of layers."""
        groups = self.setup.needs.extraction.groups
        return [
            _Sums(self.setup, self.point, group, not number, self.sketched and not number)
            for number, group in enumerate(groups)
        ]

    @cached_property
    def queries(self) -> Unit:
        """What has the queries' rows."""
        return self.setup.unit(
            _STAGE,
            f"{self.point.id}/queries",
            reads=(),
            cost=len(self.setup.queries),
            sketched=str(self.sketched),
            **passes_parts(
                self.setup, [self.point], Block(0, 0), [self.setup.engine.coverage.layers]
            ),
        )

    @property
    def covariances(self) -> LayerCovariances:
        """The sums by layer, read when they are asked for."""
        return LazyLayers.joined(own.layers for own in self.sums)

    def measure(self, folder: Path) -> None:
        """Run the queries' forward passes."""
        engine, queries = self.setup.engine, self.setup.queries
        tables, sketches = [], []
        for block in queries.blocks(engine.batch_size):
            found = engine.query_signals(queries, self.point, block, sketched=self.sketched)
            tables.append(signal_rows(found, queries, self.point))
            sketches += sketch_rows(found, queries, "query")
        _write(folder, Block(0, len(queries)), "signals", tables)
        _write(folder, Block(0, len(queries)), "sketches", sketches, ContentSketches)


def _points(setup: AuditSetup) -> list[_Point]:
    # Sketches at one set of weights, for those at different ones do not compare.
    last = setup.plan.members[-1].final.id
    return [_Point(setup, one, one.id == last) for one in setup.plan.points]


def _sums_of(folder: Path) -> LayerCovariances:
    return LayersOfFile.by_prefix(folder / _SUMS, CovarianceSums).get("sums", {})


def _write(
    folder: Path,
    block: Block,
    name: str,
    parts: Sequence[pl.DataFrame],
    model: type[Table] | None = None,
) -> None:
    """Write rows of a range, held against their model here: those of an audit are too many."""
    if parts:
        rows = pl.concat(parts)
        checked = model.validate(rows.select(list(model.columns()))) if model else rows
        checked.write_parquet(folder / f"{name}-{block.start:09d}.parquet")
