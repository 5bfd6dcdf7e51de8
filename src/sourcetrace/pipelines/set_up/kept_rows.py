"""Rows of examples in the units of other data, found by what the examples are."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import polars as pl
from torch import Tensor

from sourcetrace.core.model.examples import Block
from sourcetrace.pipelines.set_up.contents import CONTENT_FILES, DIGEST, Contents
from sourcetrace.work.ledger import Ledger
from sourcetrace.work.unit import Unit


@dataclass(frozen=True)
class KeptRows:
    """Where rows of examples are found.

    Attributes:
        places: File that says of what examples a part of a unit has rows -> those of them that are
            wanted: example_id and number.
        left: Numbers of those that no unit has, increasing.
    """

    places: Mapping[Path, pl.DataFrame]
    left: tuple[int, ...]

    @classmethod
    def of(cls, contents: Contents, ledger: Ledger, units: Iterable[Unit], rows: Tensor) -> Self:
        """Look for the rows of some examples.

        Args:
            contents: Of the audit.
            ledger: Of the units.
            units: Those that may have them, with what else decides the rows the same.
            rows: Numbers of the examples, increasing.
        """
        numbers = pl.Series("number", rows.numpy())
        left = contents.whole[numbers].with_columns(numbers, contents.names.gather(numbers))
        places = {}
        for unit in dict.fromkeys(units):
            for file in sorted(ledger.folder(unit).glob(CONTENT_FILES)):
                here = pl.read_parquet(file)
                kept, left = (
                    left.join(here, on=DIGEST, how=how, maintain_order="left")
                    for how in ("semi", "anti")
                )
                places[file] = kept.drop(DIGEST)
        return cls(places, tuple(left["number"].to_list()))

    def tables(self, name: str, block: Block) -> list[pl.DataFrame]:
        """Return the rows of a table of a block, in one piece, by number; none without any."""
        found = []
        for file, places in self.places.items():
            wanted = places.filter(pl.col("number").is_between(block.start, block.stop - 1))
            table = file.with_name(
                CONTENT_FILES.replace("contents", name).replace("*", file.stem[-9:])
            )
            if wanted.height and table.exists():
                rows = pl.read_parquet(table)
                found.append(rows.join(wanted, on="example_id", maintain_order="left"))
        if not found:
            return []
        return [pl.concat(found).sort("number", maintain_order=True).drop("number")]


def units_like(ledger: Ledger, unit: Unit) -> list[Unit]:
    """Return the units that differ from one in its examples, and its place, alone."""
    like = [one for one in ledger.others(unit.stage, [unit]) if _basis(one) == _basis(unit)]
    return [one for one, state in zip(like, ledger.states(like), strict=True) if state == "done"]


def _basis(unit: Unit) -> dict[str, str]:
    return {name: one for name, one in unit.made_of.items() if name not in ("examples", "reads")}
