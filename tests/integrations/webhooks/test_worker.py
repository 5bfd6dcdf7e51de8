"""Audits run one at a time, and none is lost when the worker stops."""

import signal
import sys
import time

import pytest

from sourcetrace.integrations.webhooks.events import RequestedAudit
from sourcetrace.integrations.webhooks.queue import AuditQueue
from sourcetrace.integrations.webhooks.worker import SECRET_VARIABLE, AuditWorker

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

        started.append(AuditWorker(queue, command))
        started[-1].start()
        return started[-1]

    yield make
    for one in started:
        one.stop()


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
    worker()
    until(lambda: queue.counts() == {"waiting": 0, "running": 0})
    assert lines(tmp_path) == [
        line for number in (3, 4, 5) for line in (f"begin {number} None", f"end {number}")
    ]


def test_what_is_interrupted_waits_for_the_next_start(worker, queue, tmp_path):
    first = worker("forever")
    until(lambda: lines(tmp_path))
    first.stop()
    assert lines(tmp_path) == ["begin 3 None"]
    assert queue.counts() == {"waiting": 3, "running": 0}
    worker()
    until(lambda: queue.counts() == {"waiting": 0, "running": 0})
    assert lines(tmp_path)[1:3] == ["begin 3 None", "end 3"]


def test_an_audit_that_will_not_be_interrupted_is_killed(queue, tmp_path, monkeypatch):
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
    )
    stubborn.start()
    until(lambda: lines(tmp_path))
    stubborn.stop()
    assert queue.counts() == {"waiting": 3, "running": 0}


def test_an_audit_that_cannot_be_started_waits_again(queue, caplog):
    broken = AuditWorker(queue, lambda _: ["/no/such/program"])
    broken.start()
    until(lambda: "could not be started" in caplog.text)
    broken.stop()
    assert queue.counts() == {"waiting": 3, "running": 0}
