"""Labels: whether the model has them, and whether table and data set give them in one order."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl
from torch import Tensor

from sourcetrace.errors import InputError
from sourcetrace.formats import format_names, format_noun
from sourcetrace.tasks import (
    BinaryTask,
    ClassificationTask,
    MultiLabelTask,
    RegressionTask,
    Task,
    TokenClassificationTask,
)
from sourcetrace.tasks.items import CheckedItems

logger = logging.getLogger(__name__)

_WITH_LOGITS = (BinaryTask, ClassificationTask, MultiLabelTask, TokenClassificationTask)

_SAME_TARGET = 0.01
"""Of the targets' median deviation: what a label may be rounded by."""

_SAME_ORDER = 0.9
"""Rank correlation above which labels in another unit are in the targets' order."""


def classes_of(task: Task, outputs: Any) -> int | None:
    """Return how many classes a label may be of; None where that is the task's own business."""
    own = isinstance(task, ClassificationTask) and all(
        getattr(type(task), name) is getattr(ClassificationTask, name)
        for name in ("train_loss", "measurement", "targets_of")
    )
    is_logits = own and isinstance(outputs, Tensor) and outputs.ndim == 2  # noqa: PLR2004
    return outputs.shape[1] if is_logits else None


def refuse_other_count(task: Task, outputs: Any) -> None:
    """Refuse names of classes that are not as many as the model's outputs.

    Raises:
        InputError: If a task with logits has more or fewer.
    """
    names = getattr(task, "label_names", None)
    if not names or not isinstance(task, _WITH_LOGITS) or not isinstance(outputs, Tensor):
        return
    count = 2 if isinstance(task, BinaryTask) else outputs.shape[-1]
    if len(names) != count:
        raise InputError(
            f"label_names has {format_noun(len(names), 'name')} ({format_names(names)}), but the "
            f"model tells {format_noun(count, 'class', 'classes')} apart; expected one a class, in "
            "the order of the logits. Where the names are those of the training data, a class is "
            "missing in it or new: set label_names to the training's own."
        )


def refuse_labels(
    task: Task, items: CheckedItems, targets: Sequence[Any], classes: int | None
) -> None:
    """Refuse labels that the model has no output for, and warn of those that are ignored.

    Args:
        task: The task.
        items: Its examples.
        targets: The label of each, None where it is no number.
        classes: How many outputs the model has; None where a label may be any.

    Raises:
        InputError: If there are any; it names the examples.
    """
    if classes is None:
        return
    ignored = getattr(task, "ignored_index", None)
    if without := [items.ids[i] for i, target in enumerate(targets) if target == ignored]:
        logger.warning(
            "%s: %s ignored_index (%d), such as %s: without a loss, they score 0",
            items.name,
            format_noun(len(without), "label is", "labels are"),
            ignored,
            format_names(without),
        )
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


def refuse_other_order(task: Task, side: str, table: pl.DataFrame, targets: Sequence[Any]) -> None:
    """Refuse a table whose labels are not the data set's.

    Args:
        task: The task.
        side: `train` or `query`.
        table: Its table.
        targets: The label of each example in the data set.

    Raises:
        InputError: If rows differ; it names them.
    """
    wrong = _differing_labels(task, table, targets)
    if wrong.height:
        name, label, found = wrong.row(0)
        raise InputError(
            f"{side}_table(): the label is not the data set's in {wrong.height} of "
            f"{table.height} rows ({format_names(wrong['example_id'])}): {name!r} has "
            f"{label!r} in the table, {found!r} in the data set. Return one row an example, in "
            "the order of the data set; call a column that is no target otherwise."
        )


def number_of(target: Any) -> int | float | None:
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
    if isinstance(task, ClassificationTask | BinaryTask):
        names = task.label_names
        classes = [-1 if t is None or t % 1 else int(t) for t in targets]  # NaN % 1 is NaN, true
        found = [
            None if c < 0 or (names and c >= len(names)) else names[c] if names else str(c)
            for c in classes
        ]
        rows = rows.with_columns(found=pl.Series(found, dtype=pl.String))
        named = pl.col("label").is_in(list(names)) if names else pl.lit(value=True)
        return rows.filter(named & (pl.col("label") != pl.col("found")))
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


def check_labels(name: str, labels: pl.Series, names: Sequence[str] | None) -> None:
    """Refuse labels that are never what the model's predictions are called."""
    known = labels.is_in(list(names)) if names else labels.str.contains(r"^-?\d+$")
    strange = labels.filter(~known.fill_null(value=True)).unique().sort()
    if len(strange):
        expected = ", ".join(map(repr, names)) if names else "the classes' numbers"
        raise InputError(
            f"{name} has labels such as {format_names(strange)}, but the model's predictions are "
            f"called {expected}. Set label_names on the task to the names in the order of the "
            "logits."
        )
