"""Has a node whose results stand give them as they are, instead of making them again.

They stand where their files are whole, and this code made them of inputs with these digests: of
files their bytes', of parameters their values', and of what is in memory alone those of what it was
made of. With an input of which none is known, such as a task, results are made every time.
"""

from pathlib import Path
from typing import Any

from kedro.framework.hooks import hook_impl
from kedro.io import DataCatalog
from kedro.pipeline.node import Node
from pydantic import BaseModel

from sourcetrace.audit.identity.made_of import code_part
from sourcetrace.datasets.audited import AuditedDataset
from sourcetrace.files import digest_of, file_digest
from sourcetrace.work.unit import KeptFile


class StandingResultsHook:
    """Looks at what a node is about to make."""

    def __init__(self) -> None:
        self._makers: dict[str, Node] = {}

    @hook_impl
    def before_pipeline_run(self) -> None:
        """Forget the run before."""
        self._makers = {}

    @hook_impl(trylast=True)
    def before_node_run(self, node: Node, catalog: DataCatalog) -> None:
        """Spare a node work whose results are there."""
        self._makers |= dict.fromkeys(node.outputs, node)
        results = [catalog[name] for name in node.outputs]
        audited = [one for one in results if isinstance(one, AuditedDataset)]
        # Of other results, MLflow is told, or they are no files.
        if len(audited) == len(results) and (made_of := self._made_of(node, catalog)):
            if all(one.stands(made_of) for one in audited):
                _give(node, [one.kept() for one in audited])
            else:
                for one in audited:
                    one.node = made_of

    def _made_of(self, node: Node, catalog: DataCatalog) -> str | None:
        """Return the digest of what a node makes its results of; None where it is not known."""
        digests = {name: self._digest(name, catalog) for name in node.inputs}
        if None in digests.values() or not node.func.__module__.startswith("sourcetrace."):
            return None
        return digest_of([node.name, code_part(), digests])

    def _digest(self, name: str, catalog: DataCatalog) -> str | None:
        entry = catalog[name]
        if isinstance(entry, AuditedDataset):
            return entry.digest()
        if path := getattr(entry, "_filepath", None):
            return file_digest(Path(path)) if Path(path).is_file() else ""
        if name.startswith("params:"):
            value = entry.load()
            return digest_of(value.model_dump() if isinstance(value, BaseModel) else value)
        return self._made_of(self._makers[name], catalog) if name in self._makers else None


def _give(node: Node, results: list[KeptFile]) -> None:
    function = node.func

    def standing(*_: Any) -> Any:
        node.func = function
        return results if len(results) > 1 else results[0]

    node.func = standing
