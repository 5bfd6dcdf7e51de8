"""Rows that were made for the same examples in other data, and need not be made again.

A unit that has rows of examples writes beside them what each example was. Where data has changed,
the rows of the others are found by it in the units that the ledger still has.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import polars as pl
from torch import Tensor

from sourcetrace.core.model.examples import Block
from sourcetrace.pipelines.shared.units import AuditSetup
from sourcetrace.work.unit import Unit

_FILES = "contents-*.parquet"


def write_contents(
    setup: AuditSetup, folder: Path, part: Block, rows: Tensor | None = None
) -> None:
    """Write what the examples are of which a unit has rows.

    Args:
        setup: Of the audit.
        folder: The unit's.
        part: The examples of a part of it.
        rows: Numbers of those that have rows; None for all.
    """
    numbers = part.numbers if rows is None else rows
    contents = setup.contents.whole.gather(numbers.numpy())
    file = folder / _FILES.replace("*", f"{part.start:09d}")
    pl.DataFrame({"content": contents}).write_parquet(file)


def contents_of(folder: Path) -> pl.Series:
    """Return what the examples are of which a unit has rows."""
    files = sorted(folder.glob(_FILES))
    return pl.read_parquet(files)["content"] if files else pl.Series([], dtype=pl.String)


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
    def of(cls, setup: AuditSetup, units: Iterable[Unit], rows: Tensor) -> Self:
        """Look for the rows of some examples.

        Args:
            setup: Of the audit.
            units: Those that may have them, with what else decides the rows the same.
            rows: Numbers of the examples, increasing.
        """
        contents, numbers = setup.contents, pl.Series(rows.numpy())
        left = pl.DataFrame(
            {
                "number": numbers,
                "example_id": contents.names.gather(numbers),
                "content": contents.whole.gather(numbers),
            }
        )
        places = {}
        for unit in dict.fromkeys(units):
            for file in sorted(setup.team.ledger.folder(unit).glob(_FILES)):
                here = pl.col("content").is_in(pl.read_parquet(file)["content"].implode())
                places[file] = left.filter(here).drop("content")
                left = left.filter(~here)
        return cls(places, tuple(left["number"].to_list()))

    def tables(self, name: str, block: Block) -> list[pl.DataFrame]:
        """Return the rows of a table of a block, in one piece, by number; none without any."""
        found = []
        for file, places in self.places.items():
            wanted = places.filter(pl.col("number").is_between(block.start, block.stop - 1))
            table = file.with_name(_FILES.replace("contents", name).replace("*", file.stem[-9:]))
            if wanted.height and table.exists():
                found.append(pl.read_parquet(table).join(wanted, on="example_id"))
        if not found:
            return []
        return [pl.concat(found).sort("number", maintain_order=True).drop("number")]


def units_like(setup: AuditSetup, unit: Unit) -> list[Unit]:
    """Return the units that differ from one in its examples, and its place, alone."""
    ledger = setup.team.ledger
    like = [one for one in ledger.others(unit.stage, [unit]) if _basis(one) == _basis(unit)]
    return [one for one, state in zip(like, ledger.states(like), strict=True) if state == "done"]


def _basis(unit: Unit) -> dict[str, str]:
    return {name: one for name, one in unit.made_of.items() if name not in ("examples", "reads")}
