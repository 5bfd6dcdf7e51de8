"""A measurement in its own process, so that CPU seconds and peak memory are its own."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.measurement import Measurement

REPOSITORY = Path(__file__).resolve().parents[1]
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def measure_in_process(
    python: Path | str,
    module: str,
    arguments: Sequence[object],
    *,
    threads: int,
    limit_seconds: float | None = None,
) -> Measurement:
    """Run a module that takes `--measurement FILE`, and return what it measured.

    Args:
        python: The interpreter.
        module: Its name, importable from the repository's root.
        arguments: The rest of its command line.
        threads: Of the numerical libraries.
        limit_seconds: After which the process is ended.

    Raises:
        RuntimeError: If the process failed; it says how it ended.
    """
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "measurement.json"
        command = [str(python), "-m", module, *map(str, arguments), "--measurement", str(file)]
        environment = os.environ | dict.fromkeys(THREAD_VARIABLES, str(threads))
        done = subprocess.run(
            command,
            check=False,
            capture_output=True,
            text=True,
            cwd=REPOSITORY,
            env=environment,
            timeout=limit_seconds,
        )
        if done.returncode != 0:
            ending = "\n".join(done.stderr.splitlines()[-20:])
            raise RuntimeError(f"{' '.join(command)}\nexited with {done.returncode}:\n{ending}")
        return Measurement.read(file)


def make_project(project: Path, *, server: str | None) -> None:
    """Write the demo's project, whose runs go to a server or to SQLite in it."""
    shutil.copytree(REPOSITORY / "conf", project / "conf", ignore=shutil.ignore_patterns("local"))
    shutil.copy(REPOSITORY / "pyproject.toml", project)
    (project / "conf/local").mkdir()
    # Kedro looks for the package here, and imports the one that is installed.
    (project / "src").mkdir()
    if server is not None:
        (project / "conf/local/mlflow.yml").write_text(f"server: {{mlflow_tracking_uri: {server}}}")
