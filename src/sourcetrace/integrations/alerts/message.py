"""What an alert says: figures of the audit, and nothing that comes from its data.

Messages of checks and errors are left out, because they name labels, slices and example ids.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from sourcetrace.audit.gate.report import GateReport
from sourcetrace.formats import shorten
from sourcetrace.reporting.templating import template

ALERT_SCHEMA_VERSION: Final = "2.0"
"""Grows before the point when a reader must change, behind it when fields are added."""

AlertOutcome = Literal["pass", "warn", "inconclusive", "fail", "error"]

_COUNTS = ("training_examples", "queries", "runs", "checkpoints", "segments")
_OF_A_CHECK = {"name", "metric", "status", "value", "limit", "baseline"}
_LONGEST_NAME = 100


@dataclass(frozen=True)
class EndedAudit:
    """An audit that ended.

    Attributes:
        outcome: As it is recorded: `fail` too where the gate passed but the version was trained on
            other data.
        project: Name of the project's folder.
        error: Name of the error's class, where one ended it.
        model: Registered model and version, where known.
        run_id, run_url: Of the MLflow run; the address only where MLflow is on a server.
        gate: The verdict, where there is one.
        summary: The audit's summary, where there is one.
    """

    outcome: AlertOutcome
    project: str
    error: str | None = None
    model: tuple[str, str] | None = None
    run_id: str = ""
    run_url: str | None = None
    gate: GateReport | None = None
    summary: Mapping[str, Any] | None = None

    def payload(self) -> dict[str, Any]:
        """Return the alert as JSON values; `text` says the same in words, for a chat."""
        gate, model = self.gate, self.model
        what = " version ".join(model) if model else f"project {self.project}"
        words: Any = template("alert.txt.j2", autoescape=False).module
        return {
            "schema_version": ALERT_SCHEMA_VERSION,
            "text": words.text(self, _plain(what)).strip(),
            "outcome": self.outcome,
            "summary": words.summary(self).strip(),
            "project": self.project,
            "model": {"name": model[0], "version": model[1]} if model else None,
            "run": {"id": self.run_id, "url": self.run_url} if self.run_id else None,
            "error": self.error,
            "counts": _counts(self.summary),
            "metrics": {name: value for name, value in gate.metrics.items() if value is not None}
            if gate
            else {},
            "checks": [
                check.model_dump(include=_OF_A_CHECK) for check in (gate.checks if gate else ())
            ],
        }


def _counts(summary: Mapping[str, Any] | None) -> dict[str, int]:
    if summary is None:
        return {}
    actions = {name: summary["actions"][name] for name in ("remove", "relabel", "review")}
    return {**{name: summary[name] for name in _COUNTS}, **actions}


def _plain(name: str) -> str:
    """Return a name in which no chat finds a mention, a link or markup."""
    kept = "".join(character for character in name if character not in "<>&@*`[]()|")
    return shorten(" ".join(kept.split()), limit=_LONGEST_NAME)
