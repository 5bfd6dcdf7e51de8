"""The checks of the tables that a task gives of its examples; each refusal says what to change."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import polars as pl

from sourcetrace.audit.identity.data_digest import (
    batch_digest,
    digest_examples,
    model_digest,
    table_digest,
    varying_examples,
)
from sourcetrace.errors import InputError
from sourcetrace.formats import format_names, format_noun
from sourcetrace.pipelines.checkpoint_ingest.labels import (
    check_labels,
    number_of,
    refuse_labels,
    refuse_other_order,
)
from sourcetrace.schemas.examples import label_text
from sourcetrace.tasks import ClassificationTask, Task
from sourcetrace.tasks.calls import call
from sourcetrace.tasks.items import CheckedItems, NotedItems, items_of
from sourcetrace.tasks.set_aside import set_aside

logger = logging.getLogger(__name__)


def place_in_stages(training: pl.DataFrame, stages: Sequence[str]) -> pl.DataFrame:
    """Return the table of training examples with the list of every one's stages.

    Args:
        training: As `checked_table` returned it.
        stages: Of the checkpoints, in the order of training.

    Raises:
        InputError: If it does not fit them.
    """
    if "stage" in training.columns:
        return training.with_columns(stage=_stage_lists(training["stage"], stages))
    if len(stages) > 1:
        raise InputError(
            f"The checkpoints have stages {', '.join(stages)}, but train_table() has no 'stage' "
            "column: it must say which stage each training example belongs to."
        )
    return training.with_columns(stage=pl.lit([stages[0]], dtype=pl.List(pl.String)))


def digest_side(
    task: Task, items: CheckedItems, table: pl.DataFrame, *, classes: int | None = None
) -> tuple[dict[str, Any], pl.DataFrame]:
    """Read every example of a side once; refuse items and labels that will not do.

    Args:
        task: The task.
        items: Its examples.
        table: Its table.
        classes: How many outputs the model has; None where a label may be any.

    Returns:
        What data_digests says of the side (`digest` is of the examples, `table` of all columns that
        the task gives, `batch` of a few examples joined, `set_aside` of other examples, `model` of
        what the training's is made of) but the columns, and example_digests, of every example.

    Raises:
        InputError: If an item cannot be used, or labels are none of the classes, or are in another
            order than the table's.
    """
    targets: list[Any] = []
    if left_out := set_aside(task, items.side):
        named = format_names(f"{one['example_id']!r} (index {one['index']})" for one in left_out)
        logger.warning(
            "%s: %s set aside that cannot be used (task.set_aside): %s; the first: %s. "
            "data_digests.json names all",
            items.name,
            format_noun(len(left_out), "example"),
            named,
            left_out[0]["reason"],
        )
    noted = NotedItems(items)
    digest, examples = digest_examples(
        noted,
        table,
        reading=items.name,
        inputs_of=_inputs_of(task) if items.side == "train" else None,
        each=lambda target: targets.append(number_of(target)),
    )
    noted.refuse()
    if len(targets) == table.height:  # else the examples have no content to speak of
        refuse_labels(task, items, targets, classes)
        refuse_other_order(task, items.side, table, targets)
    return {
        "digest": digest,
        "table": table_digest(getattr(task, f"{items.side}_table")()),
        "batch": batch_digest(items, task.collate),
        "rows": table.height,
        "set_aside": left_out,
        **(model_digest(task) if items.side == "train" else {}),
    }, examples


def _inputs_of(task: Task) -> Callable[[Any], Any] | None:
    given = getattr(task, "inputs_of", None)
    if given is None:
        return None
    # What could not be read is None, and refused later.
    return lambda item: None if item is None else call(task, "inputs_of", "an example", item)


def checked_table(task: Task, side: str) -> pl.DataFrame:
    """Return the table of a side with its ids and labels as text.

    Args:
        task: The task.
        side: `train` or `query`.

    Raises:
        InputError: If it does not fit its examples or the model's labels.
    """
    name = f"{side}_table()"
    table = call(task, f"{side}_table")
    count = len(items_of(task, side))
    if not isinstance(table, pl.DataFrame):
        raise InputError(f"{name} returned {type(table).__name__}; expected a polars DataFrame.")
    if "example_id" not in table.columns:
        raise InputError(
            f"{name} has no column 'example_id' (columns: {', '.join(table.columns)}). Add one "
            "with a unique name for every example."
        )
    if table.height != count:
        raise InputError(
            f"{name} has {table.height} rows, but {side}_examples() has {count} examples. "
            "Return one row an example, in the same order."
        )
    if table.height == 0:
        raise InputError(f"{name} is empty: expected at least one example.")
    ids = table["example_id"].cast(pl.String)
    if ids.null_count():
        raise InputError(f"{name}: example_id has empty values; give every example a name.")
    repeated = ids.filter(ids.is_duplicated()).unique().sort()
    if len(repeated):
        raise InputError(
            f"{name}: {len(repeated)} values of example_id occur more than once, such as "
            f"{format_names(repeated)}. Give every example its own."
        )
    labels = label_text(table["label"]) if "label" in table.columns else None
    if labels is not None and isinstance(task, ClassificationTask):
        check_labels(name, labels, task.label_names)
    return table.with_columns(
        example_id=ids, label=pl.lit(None, dtype=pl.String) if labels is None else labels
    )


def refuse_varying(task: Task, items: CheckedItems) -> None:
    """Refuse examples that are drawn anew at each reading.

    Raises:
        InputError: If one of a few is not the same twice; it names them.
    """
    varying = varying_examples(
        lambda i: call(task, "collate", f"example {items.ids[i]!r}", [items[i]]), len(items)
    )
    if varying:
        raise InputError(
            f"{items.name} gives other values at each reading, as in "
            f"{format_names(items.ids[i] for i in varying)}. An audit reads every example several "
            "times and must meet the one that training met: take random augmentation, cropping, "
            "noise and masking out of the data set and collate, or draw them from a generator that "
            "is seeded with the example's number."
        )


def _stage_lists(given: pl.Series, names: Sequence[str]) -> pl.Series:
    """Return the stages of every example as a list, in the order of training.

    Args:
        given: A name, or a list of names, an example.
        names: The stages of the checkpoints, in the order of training.

    Raises:
        InputError: If an example belongs to no stage, to one twice, or to one that the
            checkpoints do not have.
    """
    if isinstance(given.dtype, pl.List | pl.Array):
        lists = given.cast(pl.List(pl.String))
    else:
        lists = given.cast(pl.String).reshape((-1, 1)).arr.to_list().list.drop_nulls()
    empty = int((lists.list.len().fill_null(0) == 0).sum())
    if empty:
        raise InputError(
            f"train_table() puts {empty} examples into no stage: their 'stage' is empty. "
            f"Give each a stage of the checkpoints ({', '.join(names)}), or leave examples out "
            "that no stage trained on."
        )
    unknown = lists.list.set_difference(pl.Series([list(names)]))
    others = unknown.filter(unknown.list.len() > 0)
    if len(others):
        strange = others.explode().unique().sort()
        raise InputError(
            f"train_table() puts {len(others)} examples into stage "
            f"{format_names(map(repr, strange))}, but the checkpoints have {', '.join(names)}. Use "
            "the same names in both."
        )
    repeated = lists.filter(lists.list.n_unique() < lists.list.len())
    if len(repeated):
        raise InputError(
            f"train_table() puts {len(repeated)} examples into a stage twice, such as "
            f"{repeated[0].to_list()}. Name every stage once: how often a stage visits its "
            "examples is in its steps."
        )
    # The order of training, whatever order they were given in.
    visited = (pl.when(pl.col("stage").list.contains(name)).then(pl.lit(name)) for name in names)
    return pl.select(stage=lists).select(pl.concat_list(*visited).list.drop_nulls()).to_series()
