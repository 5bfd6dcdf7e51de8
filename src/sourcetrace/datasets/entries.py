"""Entries of the Kedro catalog that a task's arguments name: `{catalog: customers}`.

The run's catalog is known to its process alone. What is made of a specification here holds the
entries' data sets themselves, so that it can be sent to another process, too.
"""

from collections.abc import Mapping
from typing import Any, NoReturn

from kedro.io import AbstractDataset, DataCatalog

from sourcetrace.errors import InputError

_KEY = "catalog"


class _Open:
    catalog: DataCatalog | None = None


def open_catalog(catalog: DataCatalog) -> None:
    """Let this process's tasks find their entries in a catalog."""
    _Open.catalog = catalog


def open_entries() -> list[AbstractDataset[Any, Any]]:
    """Return the data sets of the catalog that this process's run has."""
    return [] if _Open.catalog is None else list(_Open.catalog.values())


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


class _Checked(AbstractDataset[NoReturn, Any]):
    """An entry with its `validator:`, which is the catalog's to call, for any process."""

    def __init__(self, name: str, catalog: DataCatalog) -> None:
        self._name = name
        self._catalog = DataCatalog(
            {name: catalog[name]}, validation_enabled=catalog.validation_enabled
        )
        # A catalog takes validators from a configuration alone, and this entry is made already.
        self._catalog._validator_specs[name] = catalog.validator_specs[name]

    def load(self) -> Any:
        """Return what the entry holds, validated."""
        return self._catalog.load(self._name)

    def save(self, data: NoReturn) -> None:
        """Refuse to."""
        raise NotImplementedError("A task reads its data.")

    def _describe(self) -> dict[str, Any]:
        return {"name": self._name, "dataset": self._catalog[self._name]}


def _entry(name: str, called: str) -> Any:
    catalog = _Open.catalog
    found = None if catalog is None else catalog.get(name)
    if catalog is None or found is None:
        raise InputError(
            f"{called} names the entry {name!r} of the catalog, which has none of that name. Add "
            "it to conf/base/catalog.yml or to that of the environment, or name a file."
        )
    return _Checked(name, catalog) if name in catalog.validator_specs else found
