"""One run at a time in a project, whatever becomes of the one before."""

import logging
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest
from kedro.io import SharedMemoryDataCatalog
from kedro.pipeline import Pipeline, node

from sourcetrace.errors import InputError
from sourcetrace.hooks.run_lock import RunLockHook
from sourcetrace.locks import RUN_LOCK, HeldLock
from sourcetrace.pipelines.audit import create_audit, create_status

HOLD = """
import sys
from pathlib import Path
from sourcetrace.locks import HeldLock
lock = HeldLock()
lock.acquire(Path(sys.argv[1]), wait=False)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def file(tmp_path):
    return tmp_path / "reporting" / RUN_LOCK


@pytest.fixture
def other(file):
    """Another process that holds the lock until it is killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(file)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_holder_is_named_and_a_kill_frees_the_lock(file, other):
    lock = HeldLock()
    assert not lock.acquire(file, wait=False)
    assert f"process {other.pid} (since " in HeldLock.holder_of(file)
    other.kill()
    other.wait()
    assert lock.acquire(file, wait=True)
    lock.release()


def test_who_waits_says_so_and_goes_on(file, other, caplog):
    lock = HeldLock()
    with caplog.at_level(logging.WARNING):
        waiting = threading.Thread(target=lock.acquire, args=(file,), kwargs={"wait": True})
        waiting.start()
        while "Waiting for process" not in caplog.text:
            assert waiting.is_alive()
            time.sleep(0.01)
        other.kill()
        waiting.join()
    assert not HeldLock().acquire(file, wait=False)


def test_a_damaged_note_of_the_holder_is_no_error(file, other):
    file.with_name(f"{RUN_LOCK}.json").write_text("[")
    assert HeldLock.holder_of(file) == "another process"


def test_pipelines_that_belong_together_keep_it_between_them(file):
    lock = HeldLock()
    with lock.kept():
        lock.acquire(file, wait=True)
        lock.release()
        assert not HeldLock().acquire(file, wait=False)
        lock.acquire(file, wait=True)
    assert HeldLock().acquire(file, wait=False)


def test_processes_of_their_own_are_refused_for_stages_and_no_others():
    catalog = SharedMemoryDataCatalog()
    of_others = Pipeline([node(len, "rows", "count")])
    list(RunLockHook().before_pipeline_run(pipeline=of_others, catalog=catalog))
    with pytest.raises(InputError, match=r"^--runner ParallelRunner .* ThreadRunner"):
        list(RunLockHook().before_pipeline_run(pipeline=create_audit("churn"), catalog=catalog))


def test_several_audits_in_one_run_are_refused_without_a_traceback(monkeypatch, capsys):
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    both = create_audit("churn") + create_audit("fraud")
    with pytest.raises(InputError) as refused:
        list(RunLockHook().before_pipeline_run(pipeline=both, catalog={}))
    sys.excepthook(refused.type, refused.value, refused.tb)
    told = capsys.readouterr()
    assert "under 2 namespaces" in told.out + told.err
    assert "Traceback" not in told.out + told.err


def test_what_another_hook_refuses_before_the_first_node_has_no_traceback(monkeypatch, capsys):
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    begun = RunLockHook().before_pipeline_run(pipeline=Pipeline([]), catalog={})
    next(begun)
    with pytest.raises(InputError) as refused:
        begun.throw(InputError("no such baseline"))
    sys.excepthook(refused.type, refused.value, refused.tb)
    told = "".join(capsys.readouterr())
    assert "no such baseline" in told
    assert "Traceback" not in told


def test_what_is_done_can_be_asked_while_a_run_does_it(file, other, caplog):
    log = SimpleNamespace(path=file.with_name("audit_log.jsonl"))
    for names, prefix in ((None, ""), ("churn", "churn.")):
        catalog = {f"{prefix}audit_log": log}
        list(RunLockHook().before_pipeline_run(pipeline=create_status(names), catalog=catalog))
    assert other.poll() is None
    assert "Waiting" not in caplog.text


@pytest.mark.parametrize("ending", ["after_pipeline_run", "on_pipeline_error"])
def test_a_run_holds_it_from_its_start_to_its_end(file, ending):
    hook = RunLockHook()
    log = SimpleNamespace(path=file.with_name("audit_log.jsonl"))
    list(hook.before_pipeline_run(pipeline=Pipeline([]), catalog={"audit_log": log}))
    ended = getattr(hook, ending)()
    next(ended)
    assert not HeldLock().acquire(file, wait=False)
    list(ended)
    assert HeldLock().acquire(file, wait=False)
    list(hook.before_pipeline_run(pipeline=Pipeline([]), catalog={}))
