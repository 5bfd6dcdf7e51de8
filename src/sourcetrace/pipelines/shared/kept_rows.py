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

from sourcetrace.pipelines.shared.units import AuditSetup
from sourcetrace.work.unit import Unit

_FILES = "contents-*.parquet"


def write_contents(setup: AuditSetup, folder: Path, rows: Tensor, *, part: int) -> None:
    """Write what the examples are of which a unit has rows.

    Args:
        setup: Of the audit.
        folder: The unit's.
        rows: Their numbers.
        part: Number of the first example that the unit's part may have.
    """
    contents = setup.contents.whole.gather(rows.numpy())
    file = folder / _FILES.replace("*", f"{part:09d}")
    pl.DataFrame({"content": contents}).write_parquet(file)


def contents_of(folder: Path) -> pl.Series:
    """Return what the examples are of which a unit has rows."""
    files = sorted(folder.glob(_FILES))
    return pl.read_parquet(files)["content"] if files else pl.Series([], dtype=pl.String)


@dataclass(frozen=True)
class KeptRows:
    """Where rows of examples are found.

    Attributes:
        setup: Of the audit.
        places: Unit -> the examples of which it has rows: example_id and number.
        left: Numbers of those that no unit has, increasing.
    """

    setup: AuditSetup
    places: Mapping[Unit, pl.DataFrame]
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
            held = contents_of(setup.team.ledger.folder(unit))
            here = pl.col("content").is_in(held.implode())
            places[unit] = left.filter(here).drop("content")
            left = left.filter(~here)
        return cls(setup, places, tuple(left["number"].to_list()))

    def tables(self, name: str) -> list[pl.DataFrame]:
        """Return the rows of a table, by the examples' numbers, in one piece; none without any."""
        found = []
        for unit, places in self.places.items():
            files = sorted(self.setup.team.ledger.folder(unit).glob(f"{name}-*.parquet"))
            if files and places.height:
                found.append(pl.read_parquet(files).join(places, on="example_id"))
        if not found:
            return []
        return [pl.concat(found).sort("number", maintain_order=True).drop("number")]


def units_like(setup: AuditSetup, unit: Unit) -> list[Unit]:
    """Return the units that differ from one in its examples and its place alone."""

    def basis(one: Unit) -> dict[str, str]:
        return {name: part for name, part in one.made_of.items() if name != "examples"}

    ledger = setup.team.ledger
    like = [one for one in ledger.others(unit.stage, [unit]) if basis(one) == basis(unit)]
    return [one for one, state in zip(like, ledger.states(like), strict=True) if state == "done"]
