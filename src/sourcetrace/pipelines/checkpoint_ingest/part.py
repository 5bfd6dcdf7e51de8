"""Parts of an examination, each found when it is first asked for, a failure as well as a result."""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

_Found = TypeVar("_Found")


class part(Generic[_Found]):  # noqa: N801, a decorator like `property`
    """A property whose value, or what it raised, is kept: asked again, it raises the same error."""

    def __init__(self, find: Callable[[Any], _Found]) -> None:
        self._find = find
        self.__doc__ = find.__doc__

    def __get__(self, owner: Any, kind: type | None = None) -> _Found:
        kept: dict[str, tuple[bool, Any]] = vars(owner).setdefault("_parts", {})
        name = self._find.__name__
        if name not in kept:
            try:
                kept[name] = True, self._find(owner)
            except Exception as error:
                kept[name] = False, error
        found, value = kept[name]
        if not found:
            raise value
        result: _Found = value
        return result
