"""Entries of the Kedro catalog that a task's arguments name: `{catalog: customers}`.

The run's catalog is known to its process alone. What is made of a specification here holds the
entries' data sets themselves, so that it can be sent to another process, too.
"""

from collections.abc import Mapping
from typing import Any

from kedro.io import DataCatalog

from sourcetrace.errors import InputError

_KEY = "catalog"


class _Open:
    catalog: DataCatalog | None = None


def open_catalog(catalog: DataCatalog) -> None:
    """Let this process's tasks find their entries in a catalog."""
    _Open.catalog = catalog


def with_entries(specification: Mapping[str, Any]) -> dict[str, Any]:
    """Return a task's class and arguments, every name of an entry replaced by its data set.

    `tasks.loading.load_task` loads what they hold.

    Raises:
        InputError: If there is no such entry.
    """
    arguments = specification.get("arguments")
    if not isinstance(arguments, Mapping):
        return dict(specification)
    return {
        **specification,
        "arguments": {
            name: {**value, _KEY: _entry(value[_KEY], f"task.arguments.{name}")}
            if isinstance(value, Mapping) and isinstance(value.get(_KEY), str)
            else value
            for name, value in arguments.items()
        },
    }


def _entry(name: str, called: str) -> Any:
    found = None if _Open.catalog is None else _Open.catalog.get(name)
    if found is None:
        raise InputError(
            f"{called} names the entry {name!r} of the catalog, which has none of that name. Add "
            "it to conf/base/catalog.yml or to that of the environment, or name a file."
        )
    return found
