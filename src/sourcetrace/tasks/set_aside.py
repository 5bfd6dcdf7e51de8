"""A task without the examples that cannot be used, up to a share of each side.

Whoever asks the task knows the other examples alone: tables, digests, scores and retrainings have
their numbers. Its own `train`, `picture` and `query_picture` are given the numbers that they know.
"""

import copy
from collections.abc import Callable, Collection, Sequence
from typing import Any

import polars as pl
from torch.utils.data import Subset

from sourcetrace.errors import InputError
from sourcetrace.progress import track
from sourcetrace.tasks.calls import call
from sourcetrace.tasks.items import CheckedItems, UnusableItemError, items_of
from sourcetrace.tasks.protocol import Task


def without_unusable(task: Task, share: float) -> Task:
    """Return the task without the examples that cannot be read, or joined with the first.

    It stays as it was, for the ingest to refuse, where a side has more of them than the share or is
    no data set with a table.

    Args:
        task: The task, as the user made it; all of its data is read.
        share: Of the examples of a side.
    """
    try:
        found = {side: _unusable(task, side, share) for side in ("train", "query")}
    except InputError:
        return task
    view = copy.copy(task)
    own = vars(view)  # over what the class has
    own["set_aside"] = found
    for side, wrong in found.items():
        if not wrong:
            continue
        left_out = {one["index"] for one in wrong}
        kept = [i for i in range(len(items_of(task, side))) if i not in left_out]
        own |= of_side(task, side, kept)
    return view


def may_set_aside(task: Any) -> bool:
    """Return whether examples may be left out."""
    return hasattr(task, "set_aside")


def set_aside(task: Any, side: str) -> list[dict[str, Any]]:
    """Return example_id, index and reason of each example that was set aside."""
    found: list[dict[str, Any]] = getattr(task, "set_aside", {}).get(side, [])
    return found


def of_examples(task: Any, kept: Sequence[int], *, besides: Collection[int] = ()) -> Any:
    """Return a task with the training examples of these numbers alone.

    Args:
        task: The task.
        kept: The numbers.
        besides: Examples that `train` is of as well, whichever of the kept ones it is given.
    """
    view = copy.copy(task)
    vars(view).update(of_side(task, "train", kept, besides))  # over what the class has
    return view


def of_side(
    task: Any, side: str, kept: Sequence[int], besides: Collection[int] = ()
) -> dict[str, Callable[..., Any]]:
    """Return the parts of a task that know a side's examples by number, for those that are kept."""

    def trained(numbers: Sequence[int], **options: Any) -> Any:
        own = [kept[number] for number in numbers]
        return task.train(sorted({*own, *besides}) if besides else own, **options)

    parts: dict[str, Callable[..., Any]] = {
        f"{side}_examples": lambda: Subset(getattr(task, f"{side}_examples")(), kept),
        f"{side}_table": lambda: getattr(task, f"{side}_table")()[kept],
    }
    if side == "train" and hasattr(task, "train"):
        parts["train"] = trained
    if side == "train" and hasattr(task, "relabelled"):
        parts["relabelled"] = lambda labels: of_examples(
            task.relabelled({kept[number]: label for number, label in labels.items()}),
            kept,
            besides=besides,
        )
    draws = {"train": "picture", "query": "query_picture"}[side]
    if hasattr(task, draws):
        parts[draws] = lambda number: getattr(task, draws)(kept[number])
    return parts


def _unusable(task: Task, side: str, share: float) -> list[dict[str, Any]]:
    """Return the examples of a side that cannot be used.

    Raises:
        InputError: If they are more than the share, or the ingest will refuse the table.
    """
    table, count = call(task, f"{side}_table"), len(items_of(task, side))
    sound = isinstance(table, pl.DataFrame) and "example_id" in table.columns
    if not sound or table.height != count:
        raise InputError(f"{side}_table() is refused when it is checked.")
    items = CheckedItems(task, side, table["example_id"].cast(pl.String).to_list())
    found: list[dict[str, Any]] = []
    for index in track(range(count), f"Trying {items.name}"):
        try:
            items[index]
        except UnusableItemError as error:
            found.append({"example_id": items.ids[index], "index": index, "reason": error.reason})
            if len(found) / count > share:
                raise
    return found
