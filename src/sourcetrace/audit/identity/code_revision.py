"""The git revision of a project: which code ran."""

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Self


@dataclass(frozen=True)
class CodeRevision:
    """Which code ran.

    Attributes:
        commit: Full hash of the git commit.
        dirty: Whether files differed from it.
    """

    commit: str
    dirty: bool

    @classmethod
    def of(cls, project: Path) -> Self | None:
        """Return the revision that a folder is at; None outside a git repository."""
        try:
            commit = _git(project, "rev-parse", "HEAD")
            changed = _git(project, "status", "--porcelain")
        except (OSError, subprocess.SubprocessError):
            return None
        return cls(commit, dirty=bool(changed))

    @staticmethod
    def address(project: Path) -> str | None:
        """Return the address of a folder's origin without its user; None where it has none."""
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
