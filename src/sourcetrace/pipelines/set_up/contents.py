"""What every training example is: by it, what was computed of one is known again in other data.

That is its name, its stages of training, and the content that the ingest digested. A unit that has
rows of examples writes it beside them; where data has changed, the rows of the others are found by
it in the units that the ledger still has.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl
import torch
from torch import Tensor

from sourcetrace.audit.identity.data_digest import exchange_label, split_label
from sourcetrace.core.engine.gradient_engine import GradientEngine
from sourcetrace.core.machine.nested import map_tensors
from sourcetrace.core.model.examples import Block
from sourcetrace.core.model.objective import ExampleGenerator, sampled_loss
from sourcetrace.errors import OtherDataError
from sourcetrace.pipelines.shared.inputs import Ingested, can_tell_apart

CONTENT_FILES: Final = "contents-*.parquet"
"""Of a unit: what the examples are of which it has rows."""

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
        texts = {"whole": _whole_text(inputs)}
        if can_tell_apart(inputs.task, inputs.example_digests):
            texts["inputs"] = _inputs_text(inputs, engine)
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
        file = folder / CONTENT_FILES.replace("*", f"{part.start:09d}")
        self.whole[numbers.numpy()].write_parquet(file)


def contents_of(folder: Path) -> pl.DataFrame:
    """Return what the examples are of which a unit has rows, in rows of `DIGEST`."""
    files = sorted(folder.glob(CONTENT_FILES))
    return (
        pl.read_parquet(files) if files else pl.DataFrame(schema=dict.fromkeys(DIGEST, pl.UInt64))
    )


def whole_digests(inputs: Ingested) -> pl.DataFrame:
    """Return what every training example of an audit is, N rows of `DIGEST`."""
    return _digested(inputs, {"whole": _whole_text(inputs)})["whole"]


def digest_of_example(
    name: str, stages: Iterable[str], inputs: str, label: str | None
) -> tuple[int, ...]:
    """Return the row of `whole_digests` of an example that can be told apart.

    Args:
        name: Its id.
        stages: Of its training.
        inputs: Digest of its inputs.
        label: Digest of its label, if it has one.
    """
    return _digests([_BETWEEN.join([name, ",".join(stages), inputs, label or ""])]).row(0)


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


def _whole_text(inputs: Ingested) -> pl.Expr:
    if not can_tell_apart(inputs.task, inputs.example_digests):
        return pl.concat_str("example_id", pl.lit(inputs.data), separator=_BETWEEN)
    return _text(pl.col("target_digest"))


def _inputs_text(inputs: Ingested, engine: GradientEngine) -> pl.Expr:
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
    except OtherDataError:
        raise
    except Exception:  # what does not go with another's label may read it
        return digests.to_list()
    return digests.filter(pl.Series(read.numpy())).to_list()


def _sampled_loss(engine: GradientEngine, item: object) -> Tensor:
    batch = map_tensors(engine.training.collate([item]), lambda one: one.to(engine.device))
    with torch.no_grad():
        outputs = engine.objective.forward(engine.model, batch)
        generator = ExampleGenerator.for_examples([0])
        return sampled_loss(engine.objective, outputs, generator, batch)
