"""The environment of a run, as tags: versions, the code's revision, the device."""

import platform
import re
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from sourcetrace import __version__

PACKAGES = ("torch", "kedro", "kedro-mlflow", "mlflow", "numpy", "pandera", "polars", "safetensors")
"""What decides the numbers and how they are kept."""


@dataclass(frozen=True)
class CodeRevision:
    """Which code ran.

    Attributes:
        commit: Full hash of the git commit.
        dirty: Whether files differed from it.
    """

    commit: str
    dirty: bool


def environment_tags(project: Path) -> dict[str, str]:
    """Return the versions, and the revision where the project is in a git repository."""
    tags = {"sourcetrace.version": __version__, "sourcetrace.python": platform.python_version()}
    for name in PACKAGES:
        try:
            tags[f"sourcetrace.{name}"] = version(name)
        except PackageNotFoundError:
            continue
    return tags | _git_tags(project)


def device_tag(requested: str) -> dict[str, str]:
    """Return the device a run computed on; nothing where it never imported torch.

    Args:
        requested: `attribution.device`.
    """
    torch = sys.modules.get("torch")
    if torch is None:
        return {}
    if requested == "auto":
        requested = "cuda" if torch.cuda.is_available() else "cpu"
    named = requested.startswith("cuda") and torch.cuda.is_available()
    device = f"{requested} ({torch.cuda.get_device_name(requested)})" if named else requested
    return {"sourcetrace.device": device}


def code_revision(project: Path) -> CodeRevision | None:
    """Return the revision that a folder is at; None outside a git repository."""
    try:
        commit, changed = _git(project, "rev-parse", "HEAD"), _git(project, "status", "--porcelain")
    except (OSError, subprocess.SubprocessError):
        return None
    return CodeRevision(commit, dirty=bool(changed))


def repository_address(project: Path) -> str | None:
    """Return the address of the repository's origin without its user; None where it has none."""
    try:
        remote = _git(project, "remote", "get-url", "origin")
    except (OSError, subprocess.SubprocessError):
        return None
    # git's short form, host:path; a drive's letter and a folder are no address.
    remote = re.sub(r"^(?:[^@/:]+@)?([\w.-]{2,}):(?!//)", r"ssh://\1/", remote)
    if not re.match(r"(https?|ssh|git)://", remote):
        return None
    return re.sub(r"://[^/@]*@", "://", remote)


def _git(project: Path, *arguments: str) -> str:
    command = ["git", "-C", str(project), *arguments]
    return subprocess.run(  # noqa: S603, no shell, our own arguments
        command, capture_output=True, text=True, check=True, timeout=10
    ).stdout.strip()


def _git_tags(project: Path) -> dict[str, str]:
    """Return the revision and whether files differed from it; nothing outside a repository."""
    revision = code_revision(project)
    if revision is None:
        return {}
    return {
        "mlflow.source.git.commit": revision.commit,
        "sourcetrace.git.dirty": str(revision.dirty).lower(),
    }
