"""The curvature of earlier data, taken as it is where few examples have come or gone since.

`attribution.kept_curvature` says how few. A curvature may be taken if everything else is as it was
and examples were scored with it; of several the one of the nearest data. Its data are those that it
was computed of, so that many small changes add up. One choice is noted for all processes and later
runs of an audit. Where a file of the curvature is lost, it is given up for good, and all is
computed: nobody has the examples any more.
"""

import logging
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

import polars as pl

from sourcetrace.core.model.examples import Block
from sourcetrace.files import read_optional_json
from sourcetrace.formats import format_noun
from sourcetrace.locks import shared_json
from sourcetrace.pipelines.set_up.contents import DIGEST, Contents
from sourcetrace.work.ledger import Ledger
from sourcetrace.work.unit import CorruptUnitError, OtherUnitsError, Unit

logger = logging.getLogger(__name__)

_FILE, _DATA = "kept_curvature.json", "curvature_data-*.parquet"


@dataclass(frozen=True)
class Earlier:
    """The data of which a curvature was computed.

    Attributes:
        table: Name and stages of its examples.
        contents: What they are, as far as the curvature knows them.
        gone, come: Names of those that are no more there, and of those that were not, by all that
            the curvature knows of them.
        computed: When.
    """

    table: pl.DataFrame
    contents: Contents
    gone: pl.Series
    come: pl.Series
    computed: datetime

    @classmethod
    def read(cls, folder: Path, now: Contents) -> "Earlier":
        """Return those whose covariances a unit has, beside the data that there are now."""
        table = pl.read_parquet(sorted(folder.glob(_DATA)))
        inputs = table.select(DIGEST)
        then = Contents(table["example_id"], inputs, inputs)
        computed = datetime.fromtimestamp(folder.stat().st_mtime, UTC)
        return cls(table, then, then.not_in(now), now.not_in(then), computed)

    @property
    def share(self) -> float:
        """Examples that have come or gone, over those of the curvature."""
        return (len(self.gone) + len(self.come)) / len(self.contents.names)

    def moved(self, then: pl.LazyFrame, now: pl.LazyFrame) -> dict[str, Any]:
        """Return what is said of the curvature where it is taken, and log it.

        Args:
            then: `schemas.ExampleSignals` of its examples.
            now: The same of the audit's.
        """

        def squares(signals: pl.LazyFrame, names: pl.Series) -> float:
            own = signals.filter(pl.col("example_id").is_in(names.implode()))
            return float(own.select((pl.col("gradient_norm") ** 2).sum()).collect().item())

        total = squares(then, self.contents.names)
        moved = (squares(then, self.gone) + squares(now, self.come)) / total if total else None
        text = f"Not a full audit (attribution.kept_curvature): {self}"
        if moved is not None:
            text += f"; these have {100 * moved:.1f} % of the squared gradient norms"
        logger.warning("%s.", text)
        return {
            "text": f"{text}.",
            "earlier": str(self),
            "of": self.contents.all_inputs,
            "share": self.share,
            "gradient_share": moved,
        }

    def __str__(self) -> str:
        return (
            f"curvature of {format_noun(len(self.contents.names), 'example')} of "
            f"{self.computed:%Y-%m-%d}, {len(self.gone):,} gone, {len(self.come):,} come"
        )


def write_data(folder: Path, part: Block, contents: Contents, train_table: pl.DataFrame) -> None:
    """Write which examples covariances are of.

    Args:
        folder: Of the unit that has their sums.
        part: The examples.
        contents: Of all.
        train_table: Has their stages.
    """
    table = train_table.select("example_id", "stage").hstack(contents.inputs)
    file = folder / _DATA.replace("*", f"{part.start:09d}")
    table[part.start : part.stop].write_parquet(file)


@dataclass
class KeptCurvature:
    """Which curvature an audit takes.

    Attributes:
        folder: Where the choice is noted.
        identity: Of the audit.
        share: `attribution.kept_curvature`; 0 where the method takes none.
        earlier: The data whose curvature it is; None where it is that of the audit's own.
    """

    folder: Path = Path()
    identity: str = ""
    share: float = 0.0
    earlier: Earlier | None = field(default=None, init=False)
    _noted: str | None = field(default=None, init=False)
    """Digest of the curvature's examples, as it is noted; empty once it is given up."""
    _said: bool = field(default=False, init=False)

    def choose(
        self, now: Contents, ledger: Ledger, scores: Unit, final: str, *, aloud: bool
    ) -> None:
        """Look for the curvature, or for the one that was chosen.

        Args:
            now: The audit's examples.
            ledger: Of the units.
            scores: Has what scores by the curvature are made of.
            final: Id of the point where all examples are.
            aloud: Whether to log what is found.
        """
        if not self.share:
            return
        with shared_json(self.folder / _FILE) as notes:
            known = notes.get(self.identity)
            if self.earlier is None or known != self._noted:
                ledger.refresh()
                found = [] if known == "" else _candidates(now, ledger, scores, final)
                if known:
                    found = [one for one in found if one.contents.all_inputs == known]
                near = found[0] if found and found[0].share <= self.share else None
                if aloud and not self._said:
                    other = f"the nearest is the {found[0]}" if found else "there is none to take"
                    logger.info(
                        *(("Kept: %s", near) if near else ("No curvature is kept: %s", other))
                    )
                self.earlier, self._said = near, True
                # Where others took it, they are to hear that it is gone.
                if known or near:
                    notes[self.identity] = near.contents.all_inputs if near else ""
            self._noted = notes.get(self.identity)

    def settle(self) -> None:
        """Read the choice anew, as another process may have given the curvature up.

        Raises:
            OtherUnitsError: If it has.
        """
        notes = read_optional_json(self.folder / _FILE) if self.share else None
        if (notes or {}).get(self.identity) != self._noted:
            raise OtherUnitsError

    def give_up(self, *_: object) -> NoReturn:
        """Note that the curvature cannot be had: passes of its examples are missing.

        Raises:
            OtherUnitsError: In any case.
        """
        logger.warning("Of the kept %s units are gone: all is computed", self.earlier)
        with shared_json(self.folder / _FILE) as notes:
            notes[self.identity] = ""
        raise OtherUnitsError


def _candidates(now: Contents, ledger: Ledger, scores: Unit, final: str) -> list[Earlier]:
    """Return the data of the curvatures by which scores are kept, the nearest first."""
    like = [one for one in ledger.others(scores.stage, [scores]) if _basis(one) == _basis(scores)]
    scored = {one.made_of["known"] for one in like if "known" in one.made_of}
    if not scored or now.all_inputs in scored:
        return []
    found = []
    for unit in ledger.others("gradient_extraction", []):
        if unit.name.startswith(f"{final}/") and unit.made_of.get("sketched") == "True":
            with suppress(CorruptUnitError):
                folder = ledger.folder(unit)
                if any(folder.glob(_DATA)):
                    found.append(Earlier.read(folder, now))
    found = [one for one in found if one.contents.all_inputs in scored]
    return sorted(found, key=lambda one: (one.share, one.computed))


def _basis(unit: Unit) -> dict[str, str]:
    own = ("examples", "known", "layers", "reads")
    return {name: one for name, one in unit.made_of.items() if name not in own}
