"""Nested states, as `state_dict()` returns them, or as nothing does."""

from collections.abc import Callable, Mapping
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
