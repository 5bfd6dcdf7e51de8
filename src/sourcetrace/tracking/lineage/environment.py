"""The environment of a run, as tags: versions, the code's revision, the device."""

import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from sourcetrace import __version__
from sourcetrace.audit.identity.code_revision import CodeRevision

PACKAGES = ("torch", "kedro", "kedro-mlflow", "mlflow", "numpy", "pandera", "polars", "safetensors")
"""What decides the numbers and how they are kept."""


def environment_tags(project: Path) -> dict[str, str]:
    """Return the versions, and the revision where the project is in a git repository."""
    tags = {"sourcetrace.version": __version__, "sourcetrace.python": platform.python_version()}
    for name in PACKAGES:
        try:
            tags[f"sourcetrace.{name}"] = version(name)
        except PackageNotFoundError:
            continue
    if (revision := CodeRevision.of(project)) is not None:
        tags["mlflow.source.git.commit"] = revision.commit
        tags["sourcetrace.git.dirty"] = str(revision.dirty).lower()
    return tags


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
