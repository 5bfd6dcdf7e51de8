"""Every script explains itself, run as a file and as a module."""

import subprocess
import sys

import pytest

from tests import REPOSITORY


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lds", "speed", "scaling", "floor", "gpu", "lineage"])
@pytest.mark.parametrize("as_module", [True, False])
def test_help_is_printed(name: str, as_module: bool) -> None:
    command = ["-m", f"benchmarks.{name}"] if as_module else [f"benchmarks/{name}.py"]
    done = subprocess.run(
        [sys.executable, *command, "--help"], check=True, capture_output=True, text=True,
        cwd=REPOSITORY,
    )  # fmt: skip
    assert "usage:" in done.stdout
