"""A version of a watched model, and what becomes of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class PlannedVersion:
    """A version, and what becomes of it.

    Attributes:
        model, version: Which it is; the version is empty where a model itself is the problem.
        action: `audit`; `skip`; or `error`, where it should be audited and cannot be.
        reason: Why, in a few words, or what is wrong.
        checkpoints: Their path, as far as it is known.
        parameters: What its audit has other than the project's.
        outcome: As in its tag `audit.status`; `error` without a verdict; None if not audited.
        exit_code: That its audit would have by itself.
        message: What went wrong.
        run_id: Of the audit's MLflow run.
        page: SHA-256 of its page.
        reports: Folder of its reports.
    """

    model: str
    version: str
    action: Literal["audit", "skip", "error"]
    reason: str
    checkpoints: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict, repr=False)
    outcome: str | None = None
    exit_code: int = 0
    message: str = ""
    run_id: str | None = None
    page: str | None = None
    reports: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return what `--output json` prints of it."""
        hidden = {"parameters", "page"}
        values = {name: value for name, value in vars(self).items() if name not in hidden}
        return values | {"version": self.version or None, "checkpoints": self.checkpoints or None}
