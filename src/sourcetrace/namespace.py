"""Where an audit's entries are in a catalog: under their own names, or under a namespace.

Another project may run the stages under a namespace, `churn_audit.review_list`. Hooks ask here,
so that they can speak of `review_list` in either case.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from kedro.io import DataCatalog
from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node

from sourcetrace.errors import InputError

_Value = TypeVar("_Value")
_PARAMETERS = "params:"
_STAGES = "sourcetrace.pipelines."


def stages_of(pipeline: Pipeline) -> list[Node]:
    """Return the nodes of a pipeline that belong to stages of an audit."""
    return [
        node for node in pipeline.nodes if getattr(node.func, "__module__", "").startswith(_STAGES)
    ]


@dataclass(frozen=True)
class AuditNames:
    """Names of an audit's entries.

    Attributes:
        namespace: Under which the audit runs; empty where it runs under none.
    """

    namespace: str = ""

    @classmethod
    def of(cls, pipeline: Pipeline) -> "AuditNames":
        """Return the names in a pipeline; those without a namespace where it holds no stage.

        Raises:
            InputError: If it holds stages of several audits: one run records one audit.
        """
        found = sorted({node.namespace or "" for node in stages_of(pipeline)})
        if len(found) > 1:
            named = ", ".join(repr(name) for name in found)
            raise InputError(
                f"The pipeline holds stages under {len(found)} namespaces ({named}), but a run "
                "records one audit. Run them one after the other, each with --pipelines."
            )
        return cls(found[0] if found else "")

    def full(self, name: str) -> str:
        """Return the name in the catalog of an entry, or of a parameter, `params:task`."""
        if not self.namespace:
            return name
        if name.startswith(_PARAMETERS):
            return f"{_PARAMETERS}{self.namespace}.{name.removeprefix(_PARAMETERS)}"
        return f"{self.namespace}.{name}"

    def own(self, outputs: Mapping[str, _Value]) -> dict[str, _Value]:
        """Return the audit's entries among others', by their own names."""
        prefix = self.full("")
        return {
            name.removeprefix(prefix): value
            for name, value in outputs.items()
            if name.startswith(prefix)
        }

    def made_by(self, pipeline: Pipeline) -> set[str]:
        """Return the own names of the entries that a pipeline writes."""
        return set(self.own(dict.fromkeys(pipeline.all_outputs())))


class AuditCatalog:
    """A catalog in which an audit's entries have their own names."""

    def __init__(self, catalog: DataCatalog, names: AuditNames) -> None:
        self._catalog, self._names = catalog, names

    def __contains__(self, name: str) -> bool:
        return self._names.full(name) in self._catalog

    def __getitem__(self, name: str) -> Any:
        return self._catalog[self._names.full(name)]

    @property
    def log(self) -> Path:
        """Where the history of audits is."""
        path: Path = self["audit_log"].path
        return path

    def load(self, name: str) -> Any:
        """Load an entry."""
        return self._catalog.load(self._names.full(name))

    def exists(self, name: str) -> bool:
        """Return whether an entry has been written."""
        return self._catalog.exists(self._names.full(name))

    def file(self, name: str) -> Path | None:
        """Return the file of an entry; None where there is none."""
        path = getattr(self[name], "_filepath", None) if name in self else None
        return Path(path) if path is not None and Path(path).is_file() else None

    def parameters(self) -> Mapping[str, Any]:
        """Return the audit's parameters, by group."""
        groups: Mapping[str, Any] = self._catalog.load("parameters")
        for part in filter(None, self._names.namespace.split(".")):
            groups = groups[part]
        return groups
