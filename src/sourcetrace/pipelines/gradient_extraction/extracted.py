"""What the passes gave, as units have it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from sourcetrace.core.curvature.covariance import CovarianceSums, LayerCovariances
from sourcetrace.core.model.examples import EvaluationPoint
from sourcetrace.datasets.tensor_file import LayersOfFile, LazyLayers
from sourcetrace.schemas.scores import ContentSketches, ExampleSignals
from sourcetrace.work.ledger import Ledger
from sourcetrace.work.unit import Unit

SUMS = "sums.safetensors"
"""File of a unit's covariance sums."""


@dataclass(frozen=True)
class Extracted:
    """What the passes at all points gave, read when it is asked for.

    Attributes:
        ledger: Of the units that have it.
        rows: Point id -> the unit that has the training examples' rows, in the order of the plan.
        asked: Point id -> the unit that has the queries'.
        sums: Point id -> the units that have the covariance sums.
    """

    ledger: Ledger
    rows: Mapping[str, Unit]
    asked: Mapping[str, Unit]
    sums: Mapping[str, Sequence[Unit]]

    def at(self, points: Sequence[EvaluationPoint]) -> "Extracted":
        """Return the same with the sums of some of the points alone."""
        return replace(self, sums={one.id: self.sums[one.id] for one in points})

    @property
    def signals(self) -> pl.LazyFrame:
        """A row a training example and point."""
        return self._scanned("signals", ExampleSignals.frame(), *self.rows.values())

    @property
    def queries(self) -> pl.LazyFrame:
        """A row a query and point."""
        return self._scanned("signals", ExampleSignals.frame(), *self.asked.values())

    @property
    def sketches(self) -> pl.LazyFrame:
        """Of what the layers see, at the last point."""
        units = *self.rows.values(), *self.asked.values()
        return self._scanned("sketches", ContentSketches.frame(), *units)

    @property
    def covariances(self) -> dict[str, LayerCovariances]:
        """Point id -> layer -> sums."""
        return {
            name: LazyLayers.joined(sums_of(self.ledger.folder(one)) for one in units)
            for name, units in self.sums.items()
        }

    def _scanned(self, name: str, empty: pl.DataFrame, *units: Unit) -> pl.LazyFrame:
        folders = map(self.ledger.folder, units)
        files = [file for folder in folders for file in sorted(folder.glob(f"{name}-*.parquet"))]
        found = pl.scan_parquet(files, glob=False) if files else empty.lazy()
        return found.select(empty.columns)


def sums_of(folder: Path) -> LayerCovariances:
    """Return a unit's covariance sums by layer, read when they are asked for."""
    return LayersOfFile.by_prefix(folder / SUMS, CovarianceSums).get("sums", {})
