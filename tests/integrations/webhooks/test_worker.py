"""Audits run one at a time, and none is lost when the worker stops."""

import fcntl
import signal
import sys
import time

import pytest

from sourcetrace.errors import InputError
from sourcetrace.integrations.webhooks.events import RequestedAudit
from sourcetrace.integrations.webhooks.queue import AuditQueue
from sourcetrace.integrations.webhooks.worker import (
    SECRET_VARIABLE,
    AuditWorker,
    audit_command,
    check_model_name,
)
from sourcetrace.parameters import TrackingParameters

VERSIONS = [RequestedAudit("churn", str(number)) for number in (3, 4, 5)]

RECORD = """
import os, sys
with open(sys.argv[1], "a") as file:
    file.write(f"begin {sys.argv[2]} {os.environ.get('SOURCETRACE_WEBHOOK_SECRET')}\\n")
    file.flush()
    if len(sys.argv) > 3:
        import time
        time.sleep(600)
    file.write(f"end {sys.argv[2]}\\n")
sys.exit(int(sys.argv[2]) % 4)
"""


@pytest.fixture
def queue(tmp_path):
    queue = AuditQueue(tmp_path / "queue.sqlite", remember_seconds=600)
    for audit in VERSIONS:
        queue.accept(audit.version, audit)
    return queue


@pytest.fixture
def worker(queue, tmp_path):
    """Return a function that makes a worker whose audits write what they do to `log`."""
    started = []

    def make(*more):
        def command(audit):
            return [sys.executable, "-c", RECORD, str(tmp_path / "log"), audit.version, *more]

        started.append(AuditWorker(queue, command, lock=tmp_path / "audit.lock"))
        return started[-1]

    yield make
    for one in started:
        one.stop()
        if one.ident is not None:
            one.join()


def until(condition):
    """Wait until something is so; a test that waits in vain fails."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def lines(tmp_path):
    log = tmp_path / "log"
    return log.read_text().splitlines() if log.exists() else []


def test_all_that_wait_run_in_turn_without_the_secret_whatever_their_exit_codes(
    worker, queue, tmp_path, monkeypatch
):
    monkeypatch.setenv(SECRET_VARIABLE, "hunter2")
    worker().start()
    until(lambda: queue.counts() == {"waiting": 0, "running": 0})
    assert lines(tmp_path) == [
        line for number in (3, 4, 5) for line in (f"begin {number} None", f"end {number}")
    ]


def test_what_is_interrupted_waits_for_the_next_start(worker, queue, tmp_path):
    first = worker("forever")
    first.start()
    until(lambda: lines(tmp_path))
    first.stop()
    first.join()
    assert lines(tmp_path) == ["begin 3 None"]
    assert queue.counts() == {"waiting": 3, "running": 0}
    worker().start()
    until(lambda: queue.counts() == {"waiting": 0, "running": 0})
    assert lines(tmp_path)[1:3] == ["begin 3 None", "end 3"]


def test_an_audit_that_will_not_be_interrupted_is_killed(worker, queue, tmp_path, monkeypatch):
    from sourcetrace.integrations.webhooks import worker as module

    monkeypatch.setattr(module, "_PATIENCE_SECONDS", 0.1)
    stubborn = AuditWorker(
        queue,
        lambda _: [
            sys.executable,
            "-c",
            f"import signal, time; signal.signal({int(signal.SIGINT)}, signal.SIG_IGN); "
            f"open({str(tmp_path / 'log')!r}, 'w').write('on'); time.sleep(600)",
        ],
        lock=tmp_path / "audit.lock",
    )
    stubborn.start()
    until(lambda: lines(tmp_path))
    stubborn.stop()
    stubborn.join(timeout=60)
    assert not stubborn.is_alive()
    assert queue.counts() == {"waiting": 3, "running": 0}


def test_nothing_starts_while_another_audit_has_the_lock(worker, queue, tmp_path):
    with (tmp_path / "audit.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert not worker()._run_next()
        assert queue.counts() == {"waiting": 3, "running": 0}
    assert worker()._run_next()
    assert lines(tmp_path) == ["begin 3 None", "end 3"]


def test_an_audit_that_cannot_be_started_waits_again(queue, tmp_path):
    broken = AuditWorker(queue, lambda _: ["/no/such/program"], lock=tmp_path / "audit.lock")
    with pytest.raises(FileNotFoundError):
        broken._run_next()
    assert queue.counts() == {"waiting": 3, "running": 0}


def test_the_command_names_the_version_and_its_models_environment():
    command = audit_command(
        VERSIONS[0],
        models={"churn": "mine", "fraud": None},
        params=["checkpoints.path=models/{version}/checkpoints"],
        pipelines="audit,verification",
    )
    assert command == [
        sys.executable,
        "-m",
        "sourcetrace",
        "audit",
        "--params",
        "tracking.registered_model.name=churn,tracking.registered_model.version=3,"
        "checkpoints.path=models/3/checkpoints",
        "--env",
        "mine",
        "--pipelines",
        "audit,verification",
    ]
    plain = audit_command(RequestedAudit("fraud", "1"), models={"fraud": None})
    assert plain[3:] == [
        "audit",
        "--params",
        "tracking.registered_model.name=fraud,tracking.registered_model.version=1",
    ]


@pytest.mark.parametrize(
    "name",
    [
        "",
        "a,b",
        "a b",
        "a=b",
        "a:b",
        "17",
        "1e5",
        "-2",
        "true",
        "null",
        "No",
        "[a]",
        "${a}",
        "a#b",
        "'a'",
    ],
)
def test_names_that_kedro_would_take_apart_are_refused(name):
    with pytest.raises(InputError, match="--model"):
        check_model_name(name)


@pytest.mark.parametrize("name", ["churn", "sourcetrace-digits", "v2", "größe", "a.b"])
def test_other_names_are_taken_and_come_through(name):
    from kedro.framework.cli.utils import _split_params

    check_model_name(name)
    command = audit_command(RequestedAudit(name, "3"), models={name: None})
    parameters = _split_params(None, None, command[command.index("--params") + 1])
    named = TrackingParameters(**parameters["tracking"]).registered_model
    assert (named.name, named.version) == (name, "3")
