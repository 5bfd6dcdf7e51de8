"""Every script explains itself, run as a file and as a module."""

import os
import runpy
import sys

import pytest

from tests import REPOSITORY
from tests.forked import run_forked

NAMES = [
    *("lds", "speed", "scaling", "floor", "gpu", "lineage", "diffusion", "planted_issues"),
    *("report_scale", "stored_scores"),
]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_file_prints_its_help(name: str) -> None:
    script = str(REPOSITORY / f"benchmarks/{name}.py")
    done = run_forked(script, ["--help"], cwd=REPOSITORY, environment=os.environ)
    assert (done.returncode, "usage:" in done.stdout) == (0, True), done.stderr


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
def test_a_module_prints_its_help(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit, match="0"):
        runpy.run_module(f"benchmarks.{name}", run_name="__main__")
    assert "usage:" in capsys.readouterr().out
