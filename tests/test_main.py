import os
import subprocess
import sys

import pytest

from sourcetrace import __version__
from sourcetrace.__main__ import main
from sourcetrace.commands import COMMANDS


@pytest.mark.parametrize("arguments", [["--help"], ["audit", "--help"], ["sync", "--help"]])
def test_help_is_told_without_kedro_mlflow_and_torch(arguments):
    script = (
        "import sys, atexit\n"
        "from sourcetrace.__main__ import main\n"
        "atexit.register(lambda: print(*{'kedro', 'mlflow', 'torch'} & set(sys.modules), "
        "file=sys.stderr))\n"
        f"main({arguments})"
    )
    said = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert said.stdout.startswith("Usage: sourcetrace")
    assert said.stderr.strip() == ""


def test_help_names_every_command(capsys):
    main(["--help"])
    said = capsys.readouterr().out
    assert all(f"  {name} " in said and does in said for name, does in COMMANDS.items())


def test_mlflow_is_kept_from_telling_its_makers_before_a_command_imports_it(monkeypatch):
    monkeypatch.setenv("DO_NOT_TRACK", "")
    monkeypatch.delenv("DO_NOT_TRACK")
    with pytest.raises(SystemExit):
        main(["audit", "--help"])
    assert os.environ["DO_NOT_TRACK"] == "true"


def test_the_version_is_told(capsys):
    main(["--version"])
    assert capsys.readouterr().out == f"sourcetrace {__version__}\n"


@pytest.mark.parametrize(
    ("given", "said"), [("adit", "Did you mean audit?"), ("xyz", "There are adopt, audit,")]
)
def test_an_unknown_command_is_refused_with_the_nearest(capsys, given, said):
    with pytest.raises(SystemExit) as ended:
        main([given, "--env", "mine"])
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert f"There is no command {given}. " in told
    assert said in told


def test_many_versions_are_not_audited_by_processes_that_others_start(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit) as ended:
        main(["audit", "--pending"])
    assert ended.value.code == 2
    assert "--pending is one process" in capsys.readouterr().err
