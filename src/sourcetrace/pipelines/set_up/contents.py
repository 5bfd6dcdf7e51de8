"""What every training example is: by it, what was computed of one is known again in other data.

That is its name, its stages of training, and the content that the ingest digested. A unit that has
rows of examples writes it beside them; where data has changed, the rows of the others are found by
it in the units that the ledger still has.
"""

import hashlib
import operator
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import polars as pl
import torch
from torch import Tensor

from sourcetrace.audit.identity.data_digest import exchange_label, item_digests, split_label
from sourcetrace.core.engine.gradient_engine import GradientEngine
from sourcetrace.core.machine.nested import map_tensors
from sourcetrace.core.model.examples import Block
from sourcetrace.core.model.objective import ExampleGenerator, sampled_loss
from sourcetrace.errors import OtherDataError, with_place
from sourcetrace.pipelines.shared.inputs import Ingested, can_tell_apart
from sourcetrace.work.ledger import Ledger
from sourcetrace.work.unit import Unit

_FILES = "contents-*.parquet"

_LABELS = 256
"""Different ones at most that are tried; of more, or of one an example, all count."""

DIGEST: Final = ["content_begin", "content_end"]
"""Columns of a digest: 16 bytes, as of the inputs' in `schemas.ExampleDigests`, as two UInt64."""

_BETWEEN = "\0"
"""The parts of a text that is digested."""

_AT_ONCE = 2**16
"""Examples whose texts are in memory at a time."""

_TRIED = 4
"""Examples that are given every label."""


@dataclass(frozen=True)
class Contents:
    """Name and content of every training example, of the contents a digest.

    Attributes:
        names: Ids, [N].
        whole: All of it, N rows of `DIGEST`.
        inputs: All by which it takes part in the curvature: without its label, unless that makes
            a difference with sampled labels, too, as an ignored one does, N rows.
    """

    names: pl.Series
    whole: pl.DataFrame
    inputs: pl.DataFrame
    _known: dict[tuple[bytes, bool], str] = field(default_factory=dict, init=False)

    @classmethod
    def of(cls, inputs: Ingested, engine: GradientEngine) -> "Contents":
        """Return those of an audit.

        Where an example's digests are not all that counts of it, that of all data stands for them.
        """
        texts = {"whole": _whole(inputs)}
        if can_tell_apart(inputs.task, inputs.example_digests):
            texts["inputs"] = _inputs(inputs, engine)
        found = _digested(inputs, texts)
        whole = found["whole"]
        return cls(inputs.train_table["example_id"], whole, found.get("inputs", whole))

    @cached_property
    def all_inputs(self) -> str:
        """The digest of all examples, as far as the curvature knows them."""
        return digest_contents(self.inputs)

    @cached_property
    def all_labelled(self) -> str:
        """The digest of all examples."""
        return digest_contents(self.whole)

    def digest(self, rows: Tensor, *, labels: bool) -> str:
        """Return the digest of some examples, in their order.

        Args:
            rows: Their numbers.
            labels: Whether labels count that sampled labels do not.
        """
        numbers = rows.numpy()
        key = hashlib.sha256(numbers.tobytes()).digest(), labels
        if key not in self._known:  # many units are of the same examples
            contents = self.whole if labels else self.inputs
            self._known[key] = digest_contents(contents[numbers])
        return self._known[key]

    def not_in(self, other: "Contents") -> pl.Series:
        """Return the names of those that others have not, by all that the curvature knows."""
        named = self.inputs.with_columns(name=self.names)
        return named.join(other.inputs, on=DIGEST, how="anti", maintain_order="left")["name"]

    def write(self, folder: Path, part: Block, rows: Tensor | None = None) -> None:
        """Write what the examples are of which a unit has rows.

        Args:
            folder: The unit's.
            part: The examples of a part of it.
            rows: Numbers of those that have rows; None for all.
        """
        numbers = part.numbers if rows is None else rows
        file = folder / _FILES.replace("*", f"{part.start:09d}")
        self.whole[numbers.numpy()].write_parquet(file)


@dataclass
class MatchedItems:
    """Training examples of a process that has not read all, compared as they are first read.

    Attributes:
        items: As the task gives them here.
        table: `example_id` and `stage`, as the ingest wrote them.
        whole: What they must be, rows of `DIGEST`.
    """

    items: Any
    table: pl.DataFrame
    whole: pl.DataFrame

    @classmethod
    def of(cls, inputs: Ingested) -> Self:
        """Return those of an audit.

        Raises:
            OtherDataError: If they are not as many.
        """
        items: Any = inputs.task.train_examples()
        table = inputs.train_table
        if len(items) != table.height:
            raise _other_data(f"There are {len(items):,} training examples, not {table.height:,}")
        return cls(items, table, _digested(inputs, {"whole": _whole(inputs)})["whole"])

    def __post_init__(self) -> None:
        self._matched = bytearray(self.table.height)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, number: int) -> Any:
        index = operator.index(number)
        if self._matched[index]:
            return self.items[index]
        name, stages = self.table["example_id"][index], ",".join(self.table["stage"][index])
        try:
            item = self.items[index]
            inputs, label = item_digests(item)
        except Exception as error:  # the user's code may raise anything, and did not for the ingest
            said = with_place(error)
            raise _other_data(f"Example {name!r} (index {index}) cannot be read: {said}") from error
        now = _digests([_BETWEEN.join([name, stages, inputs, label or ""])])
        if now.row(0) != self.whole.row(index):
            raise _other_data(f"Example {name!r} (index {index}) is not the one that was ingested")
        self._matched[index] = True
        return item


def _other_data(what: str) -> OtherDataError:
    return OtherDataError(
        f"{what}: {platform.node()} has other data than the process that started the audit. Give "
        "all machines the same."
    )


def contents_of(folder: Path) -> pl.DataFrame:
    """Return what the examples are of which a unit has rows, in rows of `DIGEST`."""
    files = sorted(folder.glob(_FILES))
    return (
        pl.read_parquet(files) if files else pl.DataFrame(schema=dict.fromkeys(DIGEST, pl.UInt64))
    )


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
            for file in sorted(ledger.folder(unit).glob(_FILES)):
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
            table = file.with_name(_FILES.replace("contents", name).replace("*", file.stem[-9:]))
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


def digest_contents(contents: pl.DataFrame) -> str:
    """Return the digest of what some examples are, rows of `DIGEST`, in their order."""
    return hashlib.sha256(contents.to_numpy(order="c").tobytes()).hexdigest()


def _digests(texts: Iterable[str]) -> pl.DataFrame:
    found = b"".join(hashlib.sha256(one.encode()).digest()[:16] for one in texts)
    return pl.DataFrame(np.frombuffer(found, "<u8").reshape(-1, 2), schema=DIGEST)


def _digested(inputs: Ingested, texts: Mapping[str, pl.Expr]) -> dict[str, pl.DataFrame]:
    """Return the digests of texts of every example, made of its name, stages and digests."""
    table, others = inputs.train_table, _example_digests(inputs)
    stages = pl.col("stage").list.join(",")
    parts: dict[str, list[pl.DataFrame]] = {name: [] for name in texts}
    for start in range(0, table.height, _AT_ONCE):
        rows = table.slice(start, _AT_ONCE).select("example_id", stages)
        rows = rows.hstack(others.slice(start, _AT_ONCE).collect()).select(**texts)
        for name, own in parts.items():
            own.append(_digests(rows[name]))
    return {name: pl.concat(own, rechunk=True) for name, own in parts.items()}


def _example_digests(inputs: Ingested) -> pl.LazyFrame:
    digests = pl.LazyFrame() if inputs.example_digests is None else inputs.example_digests.lazy()
    return digests.select(pl.col("^(input|target)_digest$"))


def _whole(inputs: Ingested) -> pl.Expr:
    if not can_tell_apart(inputs.task, inputs.example_digests):
        return pl.concat_str("example_id", pl.lit(inputs.data), separator=_BETWEEN)
    return _text(pl.col("target_digest"))


def _inputs(inputs: Ingested, engine: GradientEngine) -> pl.Expr:
    target = pl.col("target_digest")
    read = _read_labels(engine, _example_digests(inputs).select(target=target))
    return _text(pl.when(target.is_in(read)).then(target))


def _text(label: pl.Expr) -> pl.Expr:
    parts = ("example_id", "stage", "input_digest", label.fill_null(""))
    return pl.concat_str(parts, separator=_BETWEEN)


def _read_labels(engine: GradientEngine, targets: pl.LazyFrame) -> list[str]:
    """Return the labels with which a sampled loss is not what it is with the most frequent one.

    Args:
        engine: The examples, and the loss.
        targets: `target`, the digest of every example's label.
    """
    items, count = engine.training.items, len(engine.training)
    groups = targets.with_row_index().drop_nulls().group_by("target")
    found = groups.agg(pl.len(), pl.col("index").min()).collect(engine="streaming")
    digests, _, firsts = found.sort("len", "target", descending=True)
    known = getattr(getattr(engine.objective, "loss", None), "needs_targets", False)
    if known or len(digests) > min(_LABELS, count // 2):
        return digests.to_list()
    try:
        read = torch.zeros(len(digests), dtype=torch.bool)
        for number in range(0, count, -(-count // _TRIED)):
            labels = [split_label(items[first])[1] for first in firsts]
            losses = [_sampled_loss(engine, exchange_label(items[number], one)) for one in labels]
            read |= torch.tensor([not torch.equal(one, losses[0]) for one in losses])
    except Exception:  # what does not go with another's label may read it
        return digests.to_list()
    return digests.filter(pl.Series(read.numpy())).to_list()


def _sampled_loss(engine: GradientEngine, item: object) -> Tensor:
    batch = map_tensors(engine.training.collate([item]), lambda one: one.to(engine.device))
    with torch.no_grad():
        outputs = engine.objective.forward(engine.model, batch)
        generator = ExampleGenerator.for_examples([0])
        return sampled_loss(engine.objective, outputs, generator, batch)
