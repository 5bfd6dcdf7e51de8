"""What must hold of audits whatever happened: none lost, none double, none half-tagged.

Read from the history beside the reports and from the server's REST API, not by the code that
wrote them.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from sourcetrace.tracking.history.audit_log import AuditHistory
from sourcetrace.tracking.lineage.record import CLOSING, OPENING
from sourcetrace.tracking.server.waiting_run import FOLDER, WaitingRun
from tests.services.served_project import ServedProject
from tests.services.tracking_server import TrackingServer


@dataclass
class Findings:
    """What does not hold, a sentence each; empty where all does."""

    history: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    double: list[str] = field(default_factory=list)
    half_tagged: list[str] = field(default_factory=list)

    def __add__(self, other: "Findings") -> "Findings":
        return Findings(*(getattr(self, one.name) + getattr(other, one.name)
                          for one in fields(self)))  # fmt: skip

    def all(self) -> list[str]:
        """Return every sentence."""
        return [*self.history, *self.lost, *self.double, *self.half_tagged]


@dataclass(frozen=True)
class RecordedAudit:
    """A row of the history, and the id of its run on the server; empty where there is none."""

    row: dict[str, Any]
    run_id: str


def check_invariants(
    project: ServedProject,
    server: TrackingServer,
    model: str,
    *,
    ended: int,
    killed: int = 0,
) -> Findings:
    """Return what does not hold of a project's audits of version 1 of a model.

    Nothing may wait to be sent any more, and the version must be as the last audit left it.

    Args:
        project: Where they ran.
        server: Where they were recorded.
        model: The model's name; no other project audits it.
        ended: How many audits ended with a verdict.
        killed: How many did not: each may be in the history or not, by when it was killed.
    """
    found, recorded = check_history(project, server, ended=ended, killed=killed)
    if recorded:
        found.half_tagged += check_version(server, model, recorded[-1])
    return found


def check_history(
    project: ServedProject, server: TrackingServer, *, ended: int, killed: int = 0
) -> tuple[Findings, list[RecordedAudit]]:
    """Return what does not hold of a project's history and its runs, and each row with its run."""
    found, recorded = Findings(), []
    log = project.reporting / "audit_log.jsonl"
    rows = AuditHistory(log).read()
    experiment = _experiment(server, project.experiment)
    found.history += AuditHistory(log).verify()
    audits = Counter((row["run_id"], row["at"]) for row in rows)
    if not ended <= len(audits) <= ended + killed:
        found.lost.append(f"The history has {len(audits)} audits: {ended} ended, {killed} killed.")
    found.double += [f"The history has {one} {n} times." for one, n in audits.items() if n > 1]
    waiting = WaitingRun.folders(project.reporting / FOLDER)
    found.lost += [f"{folder.name} still waits." for folder in waiting]
    for row in rows:
        runs = _runs_of(server, experiment, row["hash"])
        name = f"Row {row['sequence']}"
        if not runs:
            found.lost.append(f"{name} has no run on the server.")
        if len(runs) > 1:
            found.double.append(f"{name} has {len(runs)} runs on the server.")
        for run in runs:
            _check_run(found, name, run, row)
        recorded.append(RecordedAudit(row, runs[0]["info"]["run_id"] if runs else ""))
    _check_double_checkpoints(found, server, experiment)
    return found, recorded


def check_version(server: TrackingServer, model: str, audit: RecordedAudit) -> list[str]:
    """Return where tags, card and alias of version 1 are not those of an audit."""
    version = server.get("model-versions/get", name=model, version="1")["model_version"]
    tags, row = _tags(version), audit.row
    expected = {
        "audit.status": row["status"],
        "audit.at": row["at"],
        "audit.suspect_fraction": f"{row['suspect_fraction']:.4f}",
        "audit.report_sha256": row["report_sha256"],
        "audit.run_id": audit.run_id,
    }
    found = [
        f"The version's tag {name} is {tags.get(name)}, the audit's {value}."
        for name, value in expected.items()
        if tags.get(name) != value
    ]
    description = version.get("description", "")
    if description.count(OPENING) != 1 or description.count(CLOSING) != 1:
        found.append("The version's description has not one card.")
    found += [
        f"The version's card lacks {part!r}."
        for part in (f"Audit: {row['status']}", f"runs/{audit.run_id}")
        if part not in description
    ]
    aliases = version.get("aliases", [])
    if aliases != (["audited"] if row["status"] == "pass" else []):
        found.append(f"The version is {row['status']} with the aliases {aliases}.")
    return found


def _runs_of(server: TrackingServer, experiment: str, log_hash: str) -> Sequence[dict[str, Any]]:
    answer = server.post(
        "runs/search",
        experiment_ids=[experiment],
        filter=f"tags.`audit.log_hash` = '{log_hash}'",
    )
    # The search leaves inputs out.
    return [
        server.get("runs/get", run_id=one["info"]["run_id"])["run"]
        for one in answer.get("runs", [])
    ]


def _check_run(found: Findings, name: str, run: dict[str, Any], row: dict[str, Any]) -> None:
    data = Counter(one["dataset"]["name"] for one in run["inputs"].get("dataset_inputs", []))
    if set(data) != {"audited_training_data", "audited_queries"}:
        found.half_tagged.append(f"{name}: its run's data sets are {sorted(data)}.")
    found.double += [f"{name}: its run has the data set {one} {n} times."
                     for one, n in data.items() if n > 1]  # fmt: skip
    models = Counter(one["model_id"] for one in run["inputs"].get("model_inputs", []))
    found.double += [f"{name}: its run has a model {n} times." for n in models.values() if n > 1]
    if len(models) != _CHECKPOINTS:
        found.half_tagged.append(f"{name}: its run has {len(models)} models as inputs.")
    tags = _tags(run["data"])
    if tags.get("audit.status") != row["status"]:
        found.half_tagged.append(f"{name} is {row['status']}, its run {tags.get('audit.status')}.")
    keys = Counter(one["key"] for one in run["data"]["metrics"])
    if keys["audit.suspect_share"] != 1:
        found.half_tagged.append(f"{name}: its run lacks the headline metrics.")
    if run["info"]["status"] == "RUNNING":
        found.half_tagged.append(f"{name}: its run never ended.")


_CHECKPOINTS = 3
"""Of the churn example."""


def _check_double_checkpoints(found: Findings, server: TrackingServer, experiment: str) -> None:
    answer = server.post("logged-models/search", experiment_ids=[experiment])
    hashes = Counter(
        tag["value"]
        for one in answer.get("models", [])
        for tag in one["info"].get("tags", [])
        if tag["key"] == "sourcetrace.checkpoint_sha256"
    )
    found.double += [f"A checkpoint is {n} logged models." for n in hashes.values() if n > 1]


def _experiment(server: TrackingServer, name: str) -> str:
    answer = server.get("experiments/get-by-name", experiment_name=name)
    experiment: str = answer["experiment"]["experiment_id"]
    return experiment


def _tags(entity: dict[str, Any]) -> dict[str, str]:
    return {one["key"]: one["value"] for one in entity.get("tags", [])}
