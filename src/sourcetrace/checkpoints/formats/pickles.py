"""Pickles, looked at before and after they are read: a small one may unfold to more than fits.

Values may lie in one another without end, which ends the process where they are hashed; and a
value may be in several places, which doubles what is read with every level.
"""

import pickletools
from typing import IO, Any

import torch
from torch import Tensor

from sourcetrace.checkpoints.nested import unfolded
from sourcetrace.errors import InputError
from sourcetrace.formats import format_bytes, format_count

_DEEPEST = 100
_FEW = 100_000
"""Values that any pickle may unfold to; beyond, they are in proportion to its bytes."""

_REPEATED = 2**26
"""Bytes by which all tensors may exceed their storage: a mask that was saved expanded."""

_MADE = {"APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD"}
"""Operations that change the value below their items."""


class _Value:
    """A value on the unpickler's stack: how deep it is, and how many it unfolds to."""

    def __init__(self) -> None:
        self.depth, self.size = 0, 1

    def take(self, items: list["_Value"]) -> "_Value":
        self.depth = max([self.depth, *(one.depth + 1 for one in items)])
        self.size += sum(one.size for one in items)
        return self


def refuse_unfolding(name: str, data: bytes | IO[bytes], size: int) -> None:
    """Refuse a pickle whose values are too deep or too many, without reading it.

    Args:
        name: Of the file, for errors.
        data: The pickle; a file is left behind it.
        size: Of the file, in bytes.

    Raises:
        InputError: If they are.
        ValueError, LookupError: If it is damaged.
    """
    most = max(_FEW, 4 * size)
    stack: list[_Value | None] = []  # None is a mark
    memo: dict[int, _Value | None] = {}
    for operation, argument, _ in pickletools.genops(data):
        kind = operation.name
        if "PUT" in kind or kind == "MEMOIZE":
            memo[len(memo) if argument is None else int(str(argument))] = stack[-1]
        elif kind.endswith("GET"):
            stack.append(memo[int(str(argument))])
        elif kind == "MARK":
            stack.append(None)
        elif kind == "DUP":
            stack.append(stack[-1])
        else:
            items = _taken(stack, operation.stack_before)
            if kind in _MADE:
                made = [items[0].take(items[1:])]
            else:
                made = [_Value().take(items) for _ in operation.stack_after]
            if any(one.depth > _DEEPEST or one.size > most for one in made):
                raise _unfolding(name, most)
            stack.extend(made)


def _taken(stack: list[_Value | None], wanted: list[pickletools.StackObject]) -> list[_Value]:
    """Take what an operation takes, the lowest first."""
    is_marked = pickletools.markobject in wanted
    items: list[_Value] = []
    while is_marked and (top := stack.pop()) is not None:
        items.append(top)
    below = wanted.index(pickletools.markobject) if is_marked else len(wanted)
    items += [one for one in (stack.pop() for _ in range(below)) if one is not None]
    return items[::-1]


def refuse_unfolded(name: str, content: Any, size: int) -> None:
    """Refuse what was read where its values, or its tensors' numbers, are too many.

    Args:
        name: Of the file, for errors.
        content: Of mappings, lists and tuples.
        size: Of the file, in bytes.

    Raises:
        InputError: If they are.
    """
    most = max(_FEW, 4 * size)
    repeated = 0
    for one in unfolded(content, most, _DEEPEST, lambda: _unfolding(name, most)):
        if isinstance(one, Tensor) and one.layout == torch.strided:
            numbers, stored = one.numel() * one.element_size(), one.untyped_storage().nbytes()
            repeated += max(0, numbers - stored)
    if repeated > _REPEATED:
        raise InputError(
            f"{name} holds tensors that repeat a few numbers up to {format_bytes(repeated)} more "
            "than were saved (Tensor.expand); it was not read further. Save what is computed with, "
            "each tensor as it is."
        )


def _unfolding(name: str, most: int) -> InputError:
    return InputError(
        f"{name} unfolds to values more than {_DEEPEST} deep, or to more than "
        f"{format_count(most)}, from lists that are in several places; it was not read further. "
        "Save model_state_dict, optimizer_state_dict and step alone."
    )
