"""Every item of a data set, read once and held against the first."""

from collections.abc import Hashable
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from sourcetrace.core.machine.nested import map_tensors
from sourcetrace.errors import InputError, with_place
from sourcetrace.formats import format_names
from sourcetrace.tasks.calls import call
from sourcetrace.tasks.protocol import Task

_FORMS = 1000
"""Kinds of items that are remembered, such as one a length."""

_MOST = 20
"""Items that cannot be used, after which the rest is not read."""


def items_of(task: Task, side: str) -> Any:
    """Return the data set of a side, `train` or `query`.

    Raises:
        InputError: If it has no length or gives no item by its number.
    """
    items = call(task, f"{side}_examples")
    numbered = all(hasattr(items, name) for name in ("__len__", "__getitem__"))
    if not numbered or isinstance(items, IterableDataset):
        raise InputError(
            f"{side}_examples() returned {type(items).__name__}, which has no length or gives no "
            "item by its number, as an IterableDataset or a generator. An audit reads examples by "
            "their number, several times: return a data set with __len__ and __getitem__, or "
            "list(…) of the stream where memory holds it."
        )
    return items


class UnusableItemError(InputError):
    """An item that cannot be read, or not be joined with the first.

    Attributes:
        reason: Why, in a few words.
    """

    def __init__(self, name: str, example: str, index: int, reason: str) -> None:
        self.reason = reason
        super().__init__(
            f"{name}: the item of example {example!r} (index {index}) cannot be used: {reason}. "
            "Correct it, leave it out of data set and table, or set task.set_aside to the share of "
            "examples that may be left out."
        )


class CheckedItems:
    """A data set whose items are tried as they are first read: beside the first, in a batch.

    Attributes:
        side: `train` or `query`.
        ids: Names of the examples.
        name: What the task calls the data set.
    """

    def __init__(self, task: Task, side: str, ids: Any) -> None:
        self.side, self.ids, self.name = side, ids, f"{side}_examples()"
        self._items, self._collate = items_of(task, side), task.collate
        self._tried = bytearray(len(ids))
        self._first: tuple[Any, list[torch.dtype]] | None = None
        self._forms: set[Hashable] = set()

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Any:
        try:
            item = self._items[index]
            if not self._tried[index]:
                self._try(item)
        except Exception as error:  # the user's code may raise anything
            reason = str(error)
            if not isinstance(error, InputError):
                reason = with_place(error, (reason.splitlines() or [""])[0].rstrip("."))
            raise UnusableItemError(self.name, self.ids[index], index, reason) from error
        self._tried[index] = True
        return item

    def _try(self, item: Any) -> None:
        if item is None:
            raise InputError("it is None")
        form = _form(item)
        if form is not None and form in self._forms:
            return  # as one that was joined already
        if self._first is None:
            self._first = item, _dtypes(self._collate([item, item]))
        first, expected = self._first
        found = _dtypes(self._collate([first, item]))
        if len(found) == len(expected):
            for one, other in zip(found, expected, strict=True):
                if one != other:
                    raise InputError(f"its batch holds {one}, that of the first item {other}")
        if form is not None and len(self._forms) < _FORMS:
            self._forms.add(form)


class NotedItems:
    """The same, with None in the place of items that cannot be used; `refuse` names them."""

    def __init__(self, items: CheckedItems) -> None:
        self._items = items
        self._read = bytearray(len(items))
        self._wrong: dict[int, InputError] = {}

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> Any:
        self._read[index] = True
        try:
            return self._items[index]
        except InputError as error:
            self._wrong[index] = error
            if len(self._wrong) >= _MOST:
                self._say()
            return None

    def refuse(self) -> None:
        """Read what has not been read, and refuse items that cannot be used.

        Raises:
            InputError: If there are any; it names them.
        """
        for index in range(len(self)):
            if not self._read[index]:
                self[index]
        if self._wrong:
            self._say()

    def _say(self) -> NoReturn:
        index, *others = sorted(self._wrong)
        named = format_names(f"{self._items.ids[i]!r} (index {i})" for i in others)
        more = f" Nor can be used: {named}." if others else ""
        raise InputError(f"{self._wrong[index]}{more}") from self._wrong[index]


def _form(value: Any) -> Hashable | None:
    """Return what decides whether tensors and numbers can be joined; None for anything else."""
    if isinstance(value, Tensor):
        return value.dtype, value.shape
    if isinstance(value, int | float):
        return (type(value),)
    parts: list[Any]
    if isinstance(value, tuple | list):
        parts = [_form(one) for one in value]
    elif isinstance(value, dict):
        parts = [(key, found) if (found := _form(value[key])) else None for key in value]
    else:
        return None
    return None if None in parts else (type(value), *parts)


def _dtypes(batch: Any) -> list[torch.dtype]:
    found: list[torch.dtype] = []

    def note(tensor: Tensor) -> Tensor:
        found.append(tensor.dtype)
        return tensor

    map_tensors(batch, note)
    return found
