"""The checks of the tables that a task gives of its examples; each refusal says what to change."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import polars as pl
from torch import Tensor

from sourcetrace.audit.identity.data_digest import (
    digest_examples,
    table_digest,
    varying_examples,
)
from sourcetrace.errors import InputError
from sourcetrace.formats import format_names, format_noun
from sourcetrace.pipelines.checkpoint_ingest.independence import call
from sourcetrace.pipelines.checkpoint_ingest.items import CheckedItems, NotedItems, items_of
from sourcetrace.schemas.examples import label_text
from sourcetrace.tasks import ClassificationTask, RegressionTask, Task

_SAME_TARGET = 0.01
"""Of the targets' median deviation: what a label may be rounded by."""

_SAME_ORDER = 0.9
"""Rank correlation above which labels in another unit are in the targets' order."""


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
        the task gives) but the columns, and example_digests, of every example.

    Raises:
        InputError: If an item cannot be used, or labels are none of the classes, or are in another
            order than the table's.
    """
    targets: list[Any] = []
    noted = NotedItems(items)
    digest, examples = digest_examples(
        noted,
        table,
        reading=items.name,
        inputs_of=_inputs_of(task) if items.side == "train" else None,
        each=lambda target: targets.append(_number(target)),
    )
    noted.refuse()
    if len(targets) == table.height:  # else the examples have no content to speak of
        _refuse_labels(task, items, targets, classes)
        _refuse_other_order(task, items.side, table, targets)
    return {
        "digest": digest,
        "table": table_digest(getattr(task, f"{items.side}_table")()),
        "rows": table.height,
    }, examples


def classes_of(task: Task, outputs: Any) -> int | None:
    """Return how many classes a label may be of; None where that is the task's own business."""
    own = isinstance(task, ClassificationTask) and all(
        getattr(type(task), name) is getattr(ClassificationTask, name)
        for name in ("train_loss", "measurement", "targets_of")
    )
    is_logits = own and isinstance(outputs, Tensor) and outputs.ndim == 2  # noqa: PLR2004
    return outputs.shape[1] if is_logits else None


def _inputs_of(task: Task) -> Callable[[Any], Any] | None:
    given = getattr(task, "inputs_of", None)
    if given is None:
        return None
    # What could not be read is None, and refused later.
    return lambda item: None if item is None else call(task, "inputs_of", "an example", item)


def _refuse_labels(
    task: Task, items: CheckedItems, targets: Sequence[Any], classes: int | None
) -> None:
    if classes is None:
        return
    ignored = getattr(task, "ignored_index", None)
    wrong = [
        i
        for i, target in enumerate(targets)
        if isinstance(target, int) and target != ignored and not 0 <= target < classes
    ]
    if wrong:
        named = format_names(f"{items.ids[i]!r} (index {i}): {targets[i]}" for i in wrong)
        raise InputError(
            f"{items.name}: {format_noun(len(wrong), 'label')} beyond the model's {classes} "
            f"outputs (classes 0 to {classes - 1}): {named}. Correct them, leave these examples "
            "out of data set and table, set ignored_index on the task where such a label means "
            "that there is none, or let build_model() return the model that was trained."
        )


def _refuse_other_order(task: Task, side: str, table: pl.DataFrame, targets: Sequence[Any]) -> None:
    wrong = _differing_labels(task, table, targets)
    if wrong.height:
        name, label, found = wrong.row(0)
        raise InputError(
            f"{side}_table(): the label is not the data set's in {wrong.height} of "
            f"{table.height} rows ({format_names(wrong['example_id'])}): {name!r} has "
            f"{label!r} in the table, {found!r} in the data set. Return one row an example, in "
            "the order of the data set; call a column that is no target otherwise."
        )


def _number(target: Any) -> int | float | None:
    """Return an example's label as a number; None where it is none."""
    if isinstance(target, Mapping) and len(target) == 1:
        (target,) = target.values()
    if hasattr(target, "item"):
        try:
            target = target.item()
        except (ValueError, RuntimeError):  # more than one value
            return None
    return target if isinstance(target, int | float) else None


def _differing_labels(task: Task, table: pl.DataFrame, targets: Sequence[Any]) -> pl.DataFrame:
    """Return example_id, label and target, as text, of the rows where the two differ.

    A regression's labels may be rounded, or in another unit than the targets: where most rows
    differ, labels that rise with the targets are in the same order.
    """
    rows = table.select("example_id", "label")
    if isinstance(task, ClassificationTask):
        names = task.label_names
        classes = [int(t) if isinstance(t, int) else -1 for t in targets]
        found = [
            None if c < 0 or (names and c >= len(names)) else names[c] if names else str(c)
            for c in classes
        ]
        rows = rows.with_columns(found=pl.Series(found, dtype=pl.String))
        return rows.filter(pl.col("label") != pl.col("found"))
    if not isinstance(task, RegressionTask):
        return rows.with_columns(found=pl.lit(None, dtype=pl.String)).clear()
    target, label = pl.col("found"), pl.col("label").cast(pl.Float64, strict=False)
    deviation = (target - target.median()).abs().median()
    rows = rows.with_columns(found=pl.Series(targets, dtype=pl.Float64, strict=False))
    rows = rows.filter(label.is_finite() & target.is_finite())
    allowed = _SAME_TARGET * deviation + 1e-5 * target.abs()  # and the rounding of float32
    wrong = rows.filter((label - target).abs() > allowed)
    if 2 * wrong.height > rows.height:
        order = rows.select(pl.corr(label, target, method="spearman")).item()
        if not order < _SAME_ORDER:  # NaN where all are the same
            wrong = wrong.clear()
    return wrong.with_columns(target.cast(pl.String))


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
        _check_labels(name, labels, task.label_names)
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


def _check_labels(name: str, labels: pl.Series, names: Sequence[str] | None) -> None:
    """Refuse labels that are never what the model's predictions are called."""
    known = labels.is_in(list(names)) if names else labels.str.contains(r"^\d+$")
    strange = labels.filter(~known.fill_null(value=True)).unique().sort()
    if len(strange):
        expected = ", ".join(map(repr, names)) if names else "the classes' numbers"
        raise InputError(
            f"{name} has labels such as {format_names(strange)}, but the model's predictions are "
            f"called {expected}. Set label_names on the task to the names in the order of the "
            "logits."
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
