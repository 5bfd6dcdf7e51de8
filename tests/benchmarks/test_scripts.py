"""Every script explains itself, run as a file and as a module."""

import runpy
import subprocess
import sys

import pytest

from tests import REPOSITORY

NAMES = ["lds", "speed", "scaling", "floor", "gpu", "lineage", "diffusion", "planted_issues"]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_file_prints_its_help(name: str) -> None:
    done = subprocess.run(
        [sys.executable, f"benchmarks/{name}.py", "--help"],
        check=True, capture_output=True, text=True, cwd=REPOSITORY,
    )  # fmt: skip
    assert "usage:" in done.stdout


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
def test_a_module_prints_its_help(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit, match="0"):
        runpy.run_module(f"benchmarks.{name}", run_name="__main__")
    assert "usage:" in capsys.readouterr().out
