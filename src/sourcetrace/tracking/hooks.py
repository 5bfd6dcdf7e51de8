"""Tags a run with what kedro-mlflow leaves out: the code's revision and the versions used."""

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import mlflow
from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl

from sourcetrace import __version__


class RunTagsHook:
    """Logs tags as soon as kedro-mlflow has started the run."""

    def __init__(self) -> None:
        self._project = Path()

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Remember where the project is."""
        self._project = Path(context.project_path)

    @hook_impl(trylast=True)
    def before_pipeline_run(self) -> None:
        """Tag the active run; without one, tracking is off."""
        if mlflow.active_run() is None:
            return
        mlflow.set_tags(
            {
                "sourcetrace.version": __version__,
                "sourcetrace.torch": version("torch"),
                "sourcetrace.python": platform.python_version(),
                **_git_tags(self._project),
            }
        )


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
