"""Commands in processes of their own, forked from one that has loaded the libraries.

Most of what a short command takes is the import of MLflow, torch and pandera; here these are
imported once for all commands of a test process. The project's own code is not: every command
imports it from its project, as a fresh interpreter does.
"""

import atexit
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import tests.unsynced  # noqa: F401, for the commands, too

LIBRARIES = (
    "altair",
    "cyclonedx.output.json",
    "git",
    "kedro.framework.cli",
    "kedro.framework.session",
    "kedro_datasets.polars.csv_dataset",
    "kedro_mlflow.framework.cli.cli",
    "kedro_mlflow.framework.hooks",
    "mlflow.pytorch",
    "mlflow.sklearn",
    "mlflow.store.model_registry.sqlalchemy_store",
    "mlflow.store.tracking.sqlalchemy_store",
    "mlflow.tracing.processor.otel",
    "pandera.polars",
    "pandera.strategies.base_strategies",
    "pyarrow.dataset",
    "scipy.stats",
    "sklearn.datasets",
    "sklearn.isotonic",
    "sklearn.linear_model",
    # Of torch, at a model's first pass.
    "torch.fx.experimental.symbolic_shapes",
    "transformers.models.bert.modeling_bert",
)
"""Imported before the fork."""

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload([__name__, *LIBRARIES])


def run_forked(
    module: str, arguments: Sequence[str], *, cwd: Path, environment: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run what `python -m module` runs, and return what `subprocess.run` would.

    Args:
        module: The module's name, or a script's path.
        arguments: Behind it.
        cwd: Where.
        environment: All variables.
    """
    with tempfile.TemporaryDirectory() as name:
        said = [Path(name) / "out", Path(name) / "err"]
        process = _FORKS.Process(
            target=_run,
            args=(module, [*map(str, arguments)], str(cwd), dict(environment), [*map(str, said)]),
        )
        process.start()
        process.join()
        out, err = (file.read_text(encoding="utf-8") for file in said)
    return subprocess.CompletedProcess([module, *arguments], process.exitcode or 0, out, err)


def _run(
    module: str, arguments: list[str], cwd: str, environment: dict[str, str], said: list[str]
) -> None:
    for stream, file in zip((1, 2), said, strict=True):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), stream)
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    os.chdir(cwd)
    # There is one server to fork from, and the faults' audits have it load the project's code.
    for name in [name for name in sys.modules if name.partition(".")[0] == "sourcetrace"]:
        del sys.modules[name]
    paths = environment.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:0] = [cwd, *filter(None, paths)]
    sys.argv = [module, *arguments]
    try:
        if module.endswith(".py"):
            # A script has its own folder on the path, and not the working directory.
            others = [path for path in sys.path if path not in ("", str(cwd))]
            sys.path[:] = [str(Path(module).parent), *others]
            runpy.run_path(module, run_name="__main__")
        else:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
    except Exception:  # as an interpreter ends, and not as multiprocessing does
        sys.excepthook(*sys.exc_info())
        sys.exit(1)
    finally:
        atexit._run_exitfuncs()
