"""An audit as a process of its own: what it is given, and how it may end."""

import json
import os
import stat
import sys

import pytest

from sourcetrace.commands import audit_process
from sourcetrace.commands.audit_pending import _ending_of
from sourcetrace.interruption import Interrupted

PYTHON = sys.executable

# A first line with the interpreter cannot hold a path with a space; to Python it is a string.
CHILD = """#!/bin/sh
'''exec' "{python}" "$0" "$@"
' '''
import json, os, shutil, stat, sys
from pathlib import Path
given = sys.argv[sys.argv.index("--params-file") + 1]
here = Path(__file__).parent
shutil.copy(given, here / "parameters.json")
folder = os.stat(Path(given).parent)
(here / "said.json").write_text(json.dumps([given, folder.st_mode, sys.argv[1:]]))
print("a verdict")
{ending}
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run an audit whose process does what a test says, and return its exit code."""

    def audit(ending, parameters=None, **options):
        child = tmp_path / "child"
        child.write_text(CHILD.format(python=PYTHON, ending=ending))
        child.chmod(0o755)
        monkeypatch.setattr(audit_process.sys, "executable", str(child))
        given = {"env": None, "pipelines": ["audit"], "verbose": False, **options}
        return audit_process.run_audit(parameters or {}, **given)

    return audit


def test_parameters_go_through_a_file_that_is_private_and_does_not_stay(run, tmp_path, capfd):
    parameters = {"task": {"arguments": {"text": "a, b=c: {x}", "rows": None, "list": [1, "2"]}}}
    options = {"env": "mine", "pipelines": ["audit", "verification"], "verbose": True}
    assert run("sys.exit(3)", parameters, **options) == 3
    assert json.loads((tmp_path / "parameters.json").read_text()) == parameters
    file, mode, arguments = json.loads((tmp_path / "said.json").read_text())
    assert not os.path.exists(os.path.dirname(file))
    assert stat.S_IMODE(mode) == 0o700
    assert arguments[:3] == ["-m", "sourcetrace", "audit"]
    for option in ("--env mine", "--pipelines audit,verification", "--verbose"):
        assert option in " ".join(arguments)
    # Standard output is for the list of versions.
    assert capfd.readouterr().out == ""


def test_a_process_that_is_killed_is_an_error_that_says_so(run):
    code = run("os.kill(os.getpid(), 9)")
    assert _ending_of(code) == ("its process was ended by SIGKILL, as when memory runs out")
    assert "messages above" in _ending_of(run("sys.exit(2)"))


def test_an_interrupted_audit_interrupts_all(run):
    with pytest.raises(Interrupted, match="143"):
        run("sys.exit(143)")


def test_whoever_ends_ends_the_audit_with_it(run, tmp_path, monkeypatch):
    ended = []

    class Interrupted(audit_process.subprocess.Popen):
        def wait(self, timeout=None):
            if timeout is None and not ended:
                raise KeyboardInterrupt
            ended.append(super().wait(timeout))
            return ended[-1]

    monkeypatch.setattr(audit_process.subprocess, "Popen", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        run("sys.stdin.read(); import time\nwhile True: time.sleep(1)")
    assert ended
