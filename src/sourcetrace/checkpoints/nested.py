"""Nested states, as `state_dict()` returns them, or as nothing does."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

ODD = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What torch and Python raise of a state that no training writes, such as one that holds itself."""


def is_within(one: Any, other: Any, same: Callable[[Any, Any], bool]) -> bool:
    """Return whether `other` has everything that `one` has; its mappings may have more.

    Args:
        one: A state of mappings, lists and tuples.
        other: Another.
        same: Whether two values that are none of these are the same.
    """
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return all(key in other and is_within(one[key], other[key], same) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        pairs = zip(one, other, strict=False)
        return len(one) == len(other) and all(is_within(*pair, same) for pair in pairs)
    return same(one, other)


def unfolded(
    content: Any, most: int, deepest: int, refusal: Callable[[], Exception]
) -> Iterator[Any]:
    """Yield a value and every value in it, as often as it is there.

    Args:
        content: Of mappings, lists, tuples, and records with a `state`.
        most: Values that there may be.
        deepest: How many may lie in one another.
        refusal: Makes what is raised where there are more.
    """
    waiting, seen = [(content, 0)], 1
    while waiting:
        one, depth = waiting.pop()
        yield one
        if isinstance(one, Mapping):
            inside = [*one.keys(), *one.values()]
        elif isinstance(one, list | tuple | set | frozenset):
            inside = list(one)
        else:
            inside = [one.state] if hasattr(one, "state") else []
        seen += len(inside)
        if seen > most or depth > deepest:
            raise refusal()
        waiting += [(value, depth + 1) for value in inside]
