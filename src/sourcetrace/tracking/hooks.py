"""What kedro-mlflow leaves out: the code's revision, versions, and single parameters."""

import platform
import re
import subprocess
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow
from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.io import DataCatalog
from kedro.pipeline import Pipeline
from pydantic import BaseModel

from sourcetrace import __version__
from sourcetrace.reporting.trust import trust_figure

_SECRET = re.compile("password|passwd|secret|token|credential|api_?key", re.IGNORECASE)
"""Names of parameters whose values are not logged."""

_CREDENTIALS = re.compile("://[^/@]+@")
"""A user or password in an address."""


class RunRecordHook:
    """Logs tags and parameters as soon as kedro-mlflow has started the run."""

    def __init__(self) -> None:
        self._project = Path()

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Remember where the project is."""
        self._project = Path(context.project_path)

    @hook_impl(trylast=True)
    def before_pipeline_run(self, pipeline: Pipeline, catalog: DataCatalog) -> None:
        """Tag the active run and log its parameters one by one; without one, tracking is off.

        kedro-mlflow logs a parameter group that pydantic has checked as one line of text, which
        nobody can filter runs by.
        """
        if mlflow.active_run() is None:
            return
        mlflow.log_params(
            {
                name: value
                for source in sorted(pipeline.inputs())
                if source.startswith("params:")
                for name, value in _flat(source.removeprefix("params:"), catalog.load(source))
            }
        )
        mlflow.set_tags(
            {
                "sourcetrace.version": __version__,
                "sourcetrace.torch": version("torch"),
                "sourcetrace.python": platform.python_version(),
                **_git_tags(self._project),
            }
        )

    @hook_impl
    def after_node_run(self, outputs: dict[str, Any]) -> None:
        """Tag the run with how far its scores can be trusted, and which scores they are."""
        if mlflow.active_run() is None:
            return
        if "trust" in outputs:
            trust = outputs["trust"]
            tags = {
                "trust": f"{trust['status']}: {trust['text']}",
                "scores": trust["scores_digest"],
            }
        elif "verification_summary" in outputs:
            summary = outputs["verification_summary"]
            figure = trust_figure(summary)
            tags = {
                "trust": f"{figure.status}: {figure.text}",
                "scores": summary["scores_digest"][0],
            }
        else:
            return
        mlflow.set_tags({f"audit.{name}": value for name, value in tags.items()})


def _flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the leaves of a parameter group, `attribution.method` and so on."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json", by_alias=True)
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _flat(f"{name}.{key}", inner)
    else:
        secret = _SECRET.search(name.rsplit(".", 1)[-1]) or _CREDENTIALS.search(str(value))
        yield name, "***" if secret else value


def _git_tags(project: Path) -> dict[str, str]:
    """Return the revision and whether files differ from it; nothing outside a repository."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(project), *arguments]
        return subprocess.run(  # noqa: S603, no shell, our own arguments
            command, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        return {
            "mlflow.source.git.commit": git("rev-parse", "HEAD"),
            "sourcetrace.git.dirty": str(bool(git("status", "--porcelain"))).lower(),
        }
    except (OSError, subprocess.SubprocessError):
        return {}
