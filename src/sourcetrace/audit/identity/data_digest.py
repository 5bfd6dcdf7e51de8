"""A digest of what a data set contains, short enough for MLflow's 36 characters.

The same function is called when a model is trained and when it is audited, so that training data
exchanged in between is noticed. It sees every example's values in their order, the ids and the
labels; not where the data lies, and no further column of the table.

A digest of every example's inputs makes it the same one in the next audit. The label is digested
apart, so that an example whose label was corrected is still that example.
"""

import hashlib
import logging
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final

import polars as pl

from sourcetrace.audit.identity.value_digest import (
    NoContentError,
    feed,
    feed_bytes,
    short_digest,
    value_digest,
)
from sourcetrace.progress import track
from sourcetrace.schemas.examples import label_text

logger = logging.getLogger(__name__)

_EXAMPLES = "st1-"
_TABLE_ALONE = "st1t-"
_LENGTH = 36

_TRIED = 32
"""Examples that are read several times, to see whether they are drawn anew."""

_READINGS = 4

_LABEL_KEYS: Final = frozenset({"label", "labels", "target", "targets"})
"""Keys of an example that is a mapping under which its label is looked for."""

_PAIR: Final = 2


def data_digest(
    examples: Any,
    table: pl.DataFrame,
    *,
    reading: str = "",
    each: Callable[[Any], None] | None = None,
) -> str:
    """Return the digest of examples and their table, 36 characters.

    Where examples have no content to speak of (drawn anew at every reading, or of a type whose
    bytes are not known), ids and labels alone are digested, and the digest begins differently.

    Args:
        examples: Map-style data set of N examples: tensors, arrays, pictures, numbers, text, and
            tuples, mappings and dataclasses of these.
        table: N rows: `example_id`, and `label` where there are labels.
        reading: What a progress bar says that is read; without it, there is none.
        each: Given every example as it is read, for what else is to be known of it; not all of
            them where there is no content to speak of.
    """
    content = hashlib.sha256()
    # As audits write both; they add an empty column where a task has no labels.
    labels = label_text(table["label"]) if "label" in table.columns else [None] * table.height
    for row in zip(table["example_id"].cast(pl.String), labels, strict=True):
        feed(content, row)
    count = len(examples)
    try:
        if varying_examples(examples.__getitem__, count):
            raise NoContentError("examples differ from one reading to the next")
        whole = content.copy()
        numbers = range(count)
        for index in track(numbers, f"Reading {reading}") if reading else numbers:
            item = examples[index]
            whole.update(value_digest(item))
            if each is not None:
                each(item)
    except NoContentError as reason:
        logger.warning(
            "The data's digest covers ids and labels alone, because %s. Exchanged inputs would "
            "go unnoticed: give tensors, arrays, numbers or text, without random augmentation.",
            reason,
        )
        return (_TABLE_ALONE + content.hexdigest())[:_LENGTH]
    return (_EXAMPLES + whole.hexdigest())[:_LENGTH]


def digest_examples(
    examples: Any,
    table: pl.DataFrame,
    *,
    reading: str = "",
    inputs_of: Callable[[Any], Any] | None = None,
    each: Callable[[Any], None] | None = None,
) -> tuple[str, pl.DataFrame]:
    """Return the data's digest and one for every example, from one reading.

    Args:
        examples: As `data_digest` takes them.
        table: As `data_digest` takes it.
        reading: As `data_digest` takes it.
        inputs_of: Takes an example and returns the part that stays when its label is corrected;
            by default all but the label.
        each: Given the label in every example as it is read, None where it cannot be told apart;
            not of all where examples have no content to speak of.

    Returns:
        The digest, and a table as `schemas.ExampleDigests`: without digests where the examples
        have no content to speak of.
    """
    inputs: list[str] = []
    targets: list[str | None] = []

    def add(item: Any) -> None:
        part, target = split_label(item)
        if each is not None:
            each(target)
        if inputs_of is not None:
            part, target = inputs_of(item), None
        found = _digests_of(part, target)
        inputs.append(found[0])
        targets.append(found[1])

    digest = data_digest(examples, table, reading=reading, each=add)
    whole = digest.startswith(_EXAMPLES)
    label = pl.col("label") if "label" in table.columns else pl.lit(None)
    return digest, table.select("example_id", label=label.cast(pl.String)).with_columns(
        pl.Series("input_digest", inputs if whole else [None] * table.height, dtype=pl.String),
        pl.Series("target_digest", targets if whole else [None] * table.height, dtype=pl.String),
    )


def item_digests(item: Any) -> tuple[str, str | None]:
    """Return the digests that `schemas.ExampleDigests` has of an example's inputs and label."""
    return _digests_of(*split_label(item))


def _digests_of(inputs: Any, target: Any) -> tuple[str, str | None]:
    # Of a million labels, most are the same few.
    return short_digest(inputs), None if target is None else sys.intern(short_digest(target))


def task_digests(task: Any, *, every_example: bool = True) -> dict[str, dict[str, str]]:
    """Return the digests of both sides' examples, tables with all columns, and a batch.

    With the training's comes that of what the model is made of.

    Args:
        task: The task.
        every_example: Whether to read all training examples; else a batch of them, and no digest.
    """
    sides = {
        "training": (task.train_examples(), task.train_table()),
        "queries": (task.query_examples(), task.query_table()),
    }
    found = {
        name: {"table": table_digest(table), "batch": batch_digest(examples, task.collate)}
        for name, (examples, table) in sides.items()
    }
    for name in sides if every_example else ["queries"]:
        found[name]["digest"] = data_digest(*sides[name], reading=name)
    found["training"] |= model_digest(task)
    return found


def split_label(item: Any) -> tuple[Any, Any]:
    """Return an example's inputs and its label, None where the label cannot be told apart.

    Of a pair, the first part is what the model is given (`TaskBase.forward` says so); of a
    mapping, the label is what stands under `_LABEL_KEYS`.
    """
    if isinstance(item, list | tuple) and len(item) == _PAIR:
        return item[0], item[1]
    if isinstance(item, Mapping):
        target = {key: item[key] for key in item if key in _LABEL_KEYS}
        rest = {key: item[key] for key in item if key not in _LABEL_KEYS}
        return (rest, target) if target and rest else (item, None)
    return item, None


def exchange_label(item: Any, label: Any) -> Any:
    """Return an example, or a batch, with another label of those that `split_label` returns."""
    return {**item, **label} if isinstance(item, Mapping) else (item[0], label)


def varying_examples(read: Callable[[int], Any], count: int) -> list[int]:
    """Return those of a few examples, evenly spread, that are not the same at every reading.

    Args:
        read: Returns an example, or what is made of it, by its number; where the bytes of that
            are not known, none is found.
        count: How many examples there are.
    """
    try:
        return [
            number
            for number in _sample(count)
            if len({value_digest(read(number)) for _ in range(_READINGS)}) > 1
        ]
    except NoContentError:
        return []


def batch_digest(examples: Any, collate: Callable[[list[Any]], Any]) -> str:
    """Return the digest of what joins a few examples: how it pads is no example's content.

    Empty where the batch has no content to speak of.
    """
    try:
        return short_digest(collate([examples[number] for number in _sample(len(examples))]))
    except NoContentError:
        return ""


def model_digest(task: Any) -> dict[str, str]:
    """Return, as `model`, what a task says its model is made of beside its code, if anything."""
    own = getattr(task, "model_digest", None)
    return {} if own is None else {"model": str(own())}


def table_digest(table: pl.DataFrame) -> str:
    """Return the digest of a table with all its columns; it need not fit MLflow."""
    content = hashlib.sha256(repr(list(table.schema.items())).encode())
    for row in table.iter_rows():
        feed_bytes(content, "row", repr(row).encode())
    return content.hexdigest()


def same_data(one: str | None, other: str | None) -> bool | None:
    """Return whether two digests are of the same data; None where they cannot be compared."""
    for kind in (_EXAMPLES, _TABLE_ALONE):
        if one and other and one.startswith(kind) and other.startswith(kind):
            return one == other
    return None


def _sample(count: int) -> list[int]:
    """Return up to `_TRIED` numbers from the first to the last, evenly spread."""
    return sorted({i * (count - 1) // (_TRIED - 1) for i in range(_TRIED)}) if count else []
