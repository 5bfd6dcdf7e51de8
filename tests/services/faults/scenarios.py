"""The faults: each audits a churn model of its own, and counts what does not hold afterwards."""

import random
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from sourcetrace.tracking.history.audit_log import AuditHistory
from tests.services.churn import churn_project, set_churn_parameters
from tests.services.faults.audit_process import AuditProcess, audit_once
from tests.services.faults.invariants import (
    Findings,
    check_history,
    check_invariants,
    check_version,
)
from tests.services.postgres import Postgres
from tests.services.served_project import FAILS, ServedProject
from tests.services.tracking_server import TrackingServer

VERDICTS = (0, 1, 3)
"""Exit codes of audits that ended with a verdict."""


@dataclass
class Outcome:
    """What a fault at a moment led to.

    Attributes:
        fault, moment: Which.
        ended, killed: Audits that ended with a verdict, and that did not.
        findings: What does not hold.
    """

    fault: str
    moment: str
    ended: int
    killed: int
    findings: Findings = field(default_factory=Findings)


class Bench:
    """The servers, and a new project and model for every fault.

    Args:
        folder: For the projects.
        postgres, server: Running, and running again after every fault.
    """

    def __init__(self, folder: Path, *, postgres: Postgres, server: TrackingServer) -> None:
        self.folder, self.postgres, self.server = folder, postgres, server
        self._made = 0

    def project(self) -> tuple[ServedProject, str]:
        """Make a project, and return it with the name of the model that it audits."""
        self._made += 1
        model = f"churn-{self._made}"
        return churn_project(self.folder / model, self.server, model=model), model

    def sync(self, project: ServedProject, findings: Findings) -> None:
        """Send what waits; the server is back."""
        sync = AuditProcess(project, command="sync")
        code = sync.wait()
        if code != 0:
            findings.lost.append(f"sync ended with {code}: {sync.text()}")


def server_dies(bench: Bench, moment: str) -> Outcome:
    """Kill the MLflow server at a moment; it is back only after the audit, for `sync`."""
    return _breaks(
        bench, "server killed", moment, bench.server.kill, repair_late=bench.server.start
    )


def server_restarts(bench: Bench, moment: str) -> Outcome:
    """Kill the MLflow server at a moment and start it again at once."""

    def restart() -> None:
        bench.server.kill()
        bench.server.start()

    return _breaks(bench, "server restarted", moment, restart)


def database_dies(bench: Bench, moment: str) -> Outcome:
    """End PostgreSQL at a moment; it is back only after the audit."""
    return _breaks(
        bench,
        "database stopped",
        moment,
        bench.postgres.crash,
        repair_late=bench.postgres.start,
    )


def database_restarts(bench: Bench, moment: str) -> Outcome:
    """End PostgreSQL at a moment and start it again at once."""

    def restart() -> None:
        bench.postgres.crash()
        bench.postgres.start()

    return _breaks(bench, "database restarted", moment, restart)


def _breaks(
    bench: Bench,
    fault: str,
    moment: str,
    damage: Callable[[], None],
    *,
    repair_late: Callable[[], None] | None = None,
) -> Outcome:
    """Do damage at a moment of an audit, which must end with its verdict all the same."""
    project, model = bench.project()
    audit = AuditProcess(project, pause_at=moment)
    audit.wait_for_pause()
    damage()
    audit.go_on()
    code = audit.wait()
    if repair_late is not None:
        repair_late()
    early = Findings()
    if code != 0:
        early.lost.append(f"The audit ended with {code}:\n{audit.text()}")
    bench.sync(project, early)
    found = check_invariants(project, bench.server, model, ended=1)
    return Outcome(fault, moment, ended=1, killed=0, findings=early + found)


def disk_fills(bench: Bench, moment: str) -> Outcome:
    """Fill the disk with the reporting folder at a moment, then make room and audit again."""
    project, model = bench.project()
    with _small_disk(project.reporting):
        audit = AuditProcess(project, pause_at=moment)
        audit.wait_for_pause()
        filler = project.reporting / "filler"
        _fill(filler)
        audit.go_on()
        code = audit.wait()
        found = Findings()
        if code != 2 or "No space left on device" not in audit.text():
            found.lost.append(f"A full disk ended with {code}:\n{audit.text()}")
        version = bench.server.get("model-versions/get", name=model, version="1")["model_version"]
        claims = [one["value"] for one in version.get("tags", []) if one["key"] == "audit.status"]
        if "pass" in claims or version.get("aliases"):
            found.half_tagged.append("The version claims a pass of an audit that is not written.")
        filler.unlink()
        again = audit_once(project)
        if again != 0:
            found.lost.append(f"With room again the audit ended with {again}.")
        bench.sync(project, found)
        found += check_invariants(project, bench.server, model, ended=1, killed=1)
    return Outcome("disk full", moment, ended=1, killed=1, findings=found)


def killed_at(bench: Bench, moment: str) -> Outcome:
    """Kill an audit at a moment that it pauses at, then audit again."""
    project, model = bench.project()
    audit = AuditProcess(project, pause_at=moment)
    audit.wait_for_pause()
    audit.kill()
    return _after_kill(bench, project, model, moment)


def killed_after(bench: Bench, seconds: float) -> Outcome:
    """Kill an audit after some seconds, if it has not ended by then, and audit again."""
    project, model = bench.project()
    audit = AuditProcess(project)
    ended, killed = 2, 0
    if audit.wait(seconds=seconds) is None:
        audit.kill()
        ended, killed = 1, 1
    moment = f"after {seconds:.1f} s"
    return _after_kill(bench, project, model, moment, ended=ended, killed=killed)


def _after_kill(
    bench: Bench,
    project: ServedProject,
    model: str,
    moment: str,
    *,
    ended: int = 1,
    killed: int = 1,
) -> Outcome:
    found = Findings()
    code = audit_once(project)
    if code != 0:
        found.lost.append(f"The audit after a kill ended with {code}.")
    bench.sync(project, found)
    found += check_invariants(project, bench.server, model, ended=ended, killed=killed)
    return Outcome("killed", moment, ended, killed, findings=found)


def clock_goes_back(bench: Bench, days: float) -> Outcome:
    """Audit, audit with a clock that went back some days, and audit by the right time again."""
    project, model = bench.project()
    found = Findings()
    for clock in (0.0, -days * 86_400, 0.0):
        code = audit_once(project, clock=clock)
        if code != 0:
            found.lost.append(f"With a clock off by {clock} s the audit ended with {code}.")
        bench.sync(project, found)
    times = [row["at"] for row in AuditHistory(project.reporting / "audit_log.jsonl").read()]
    if times[1:2] != [min(times)]:
        found.history.append(f"The clock did not go back: {times}.")
    found += check_invariants(project, bench.server, model, ended=3)
    return Outcome("clock back", f"by {days:g} days", ended=3, killed=0, findings=found)


def two_audits_race(bench: Bench, moment: str, *, shared_history: bool) -> Outcome:
    """Audit a version from two folders at once: one passes, one fails and comes later.

    The first is paused at a moment of its recording. With a shared history the second waits for
    its end, so both go on together; without one the second overtakes it.
    """
    first, model = bench.project()
    second = churn_copy(first, bench)
    set_churn_parameters(second, model, gate=FAILS)
    if shared_history:
        _share_history(first, second)
    one = AuditProcess(first, pause_at=moment)
    one.wait_for_pause()
    # Whoever shares a history waits for the run before; others overtake it.
    other = AuditProcess(second)
    found = Findings()
    codes = {}
    if not shared_history:
        codes["second"] = other.wait()
    one.go_on()
    codes["first"] = one.wait()
    if shared_history:
        codes["second"] = other.wait()
    if codes != {"first": 0, "second": 1}:
        found.lost.append(f"They ended with {codes}.")
    bench.sync(first, found)
    if shared_history:
        found += check_invariants(first, bench.server, model, ended=2)
        return Outcome("two audits, one history", moment, ended=2, killed=0, findings=found)
    bench.sync(second, found)
    candidates = []
    for project in (first, second):
        own, recorded = check_history(project, bench.server, ended=1)
        found += own
        candidates += recorded
    differences = [check_version(bench.server, model, audit) for audit in candidates]
    found.half_tagged += min(differences, key=len, default=[])
    return Outcome("two audits, two machines", moment, ended=2, killed=0, findings=found)


def kill_moments(bench: Bench, *, count: int, seed: int) -> Sequence[float]:
    """Return random moments within the time that an audit takes here, which is measured."""
    project, _ = bench.project()
    # The first starts the process that all others are forked from.
    audit_once(project)
    started = time.monotonic()
    audit_once(project)
    taken = time.monotonic() - started
    generator = random.Random(seed)
    return sorted(generator.uniform(0.0, taken) for _ in range(count))


def churn_copy(project: ServedProject, bench: Bench) -> ServedProject:
    """Return another folder with the same task, checkpoints, experiment and model."""
    copy = ServedProject(
        project.path.with_name(f"{project.path.name}-again"),
        bench.server,
        experiment=project.experiment,
    )
    subprocess.run(
        ["cp", "-r", project.path / "churn.py", project.path / "data", copy.path], check=True
    )
    return copy


def _share_history(*projects: ServedProject) -> None:
    history = projects[0].reporting / "audit_log.jsonl"
    for project in projects[1:]:
        (project.path / "conf/local/catalog.yml").write_text(
            f"audit_log: {{type: sourcetrace.datasets.AuditLogDataset, filepath: {history}}}\n"
        )


@contextmanager
def _small_disk(folder: Path) -> Iterator[None]:
    """Mount some megabytes of memory at a folder; only root may."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def _fill(file: Path) -> None:
    """Write until nothing fits any more."""
    with file.open("wb", buffering=0) as target:
        for size in (65_536, 4_096, 1):
            try:
                while True:
                    target.write(bytes(size))
            except OSError:
                continue
