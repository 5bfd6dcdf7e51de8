"""What an audit's lineage costs: the demo's audit with it and without, in turn.

    python -m benchmarks.lineage
    python -m benchmarks.lineage --server http://127.0.0.1:5000

Without it means without the hooks that record lineage; kedro-mlflow logs parameters, metrics and
artifacts in both. Every audit is a process of its own; of wall and CPU seconds the medians are
printed, and the median of the differences pair by pair.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

REPOSITORY = Path(__file__).resolve().parents[1]
if str(REPOSITORY) not in sys.path:
    sys.path.insert(0, str(REPOSITORY))

from benchmarks.machine import describe_machine  # noqa: E402, works as a file, too
from benchmarks.processes import THREAD_VARIABLES, make_project  # noqa: E402, works as a file, too

_WITH = "from sourcetrace.__main__ import main; main(['audit'])"
_WITHOUT = (
    "from sourcetrace import settings; "
    "names = {'LineageHook', 'RunRecordHook'}; "
    "settings.HOOKS = tuple(one for one in settings.HOOKS if type(one).__name__ not in names); "
    + _WITH
)
_TRAINING = "from sourcetrace.__main__ import main; main(['--pipelines', 'demo_training'])"

Seconds = tuple[float, float]
"""Wall, CPU."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lineage", description=__doc__)
    parser.add_argument("--repeats", type=int, default=5, help="pairs; default 5")
    parser.add_argument("--server", help="address of an MLflow server; SQLite if not given")
    arguments = parser.parse_args()
    print(describe_machine(threads=1))
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder) / "project"
        make_project(project, server=arguments.server)
        run_in_project(project, _TRAINING)
        (project / "conf/local/parameters.yml").write_text(
            "tracking: {registered_model: {name: sourcetrace-digits, version: 1}}\n"
        )
        pairs = []
        # The first pair warms up.
        for number in range(arguments.repeats + 1):
            pair = run_in_project(project, _WITH), run_in_project(project, _WITHOUT)
            pairs += [pair] if number else []
            print("with, without (wall s, CPU s):", *pair, file=sys.stderr, flush=True)
    print(table(pairs))


def table(pairs: Sequence[tuple[Seconds, Seconds]]) -> str:
    """Return the medians, in Markdown."""
    lines = [
        "| | with lineage | without | difference | allowed: 5 s and 2 % |",
        "| --- | --- | --- | --- | --- |",
    ]
    for place, name in enumerate(("wall s", "CPU s")):
        with_it = median(pair[0][place] for pair in pairs)
        without = median(pair[1][place] for pair in pairs)
        difference = median(pair[0][place] - pair[1][place] for pair in pairs)
        lines.append(
            f"| {name} | {with_it:.2f} | {without:.2f} | {difference:+.2f} | "
            f"{5 + 0.02 * without:.2f} |"
        )
    return "\n".join(lines)


def run_in_project(project: Path, code: str, *, threads: int = 1) -> Seconds:
    """Run Python code in a project and return what it took, imports included."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=project,
        # One thread: two that wait for each other on a busy machine count as CPU seconds.
        env=os.environ
        | {"DO_NOT_TRACK": "true", "PYTHONPATH": str(REPOSITORY)}
        | dict.fromkeys(THREAD_VARIABLES, str(threads)),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode not in (0, 1, 3):
        raise RuntimeError(f"exit code {done.returncode}:\n{done.stderr[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = (after.ru_utime - before.ru_utime) + (after.ru_stime - before.ru_stime)
    return time.monotonic() - started, cpu


if __name__ == "__main__":
    main()
