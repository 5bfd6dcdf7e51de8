"""CPU seconds of a whole audit beside influence functions of one checkpoint by a peer.

    python -m benchmarks.whole_audit --ground-truth DIR [--repeats 3]

Ours is `kedro run --pipelines audit` as a process: six checkpoints in three segments, scores,
self-influence, report, gate, MLflow, and every import. The peer's is the EK-FAC fit and the
pairwise scores of the last checkpoint by kronfluence 1.0.1, its imports and data left out. They run
in turn, one thread each, behind one of ours that makes the database; medians are printed with
their range.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import numpy as np
from torch import Tensor

REPOSITORY = Path(__file__).resolve().parents[1]
if str(REPOSITORY) not in sys.path:
    sys.path.insert(0, str(REPOSITORY))

from benchmarks.environments import make_environment  # noqa: E402, works as a file, too
from benchmarks.ground_truth_data import read_side  # noqa: E402
from benchmarks.lineage import make_project, run_in_project  # noqa: E402
from benchmarks.machine import describe_machine  # noqa: E402
from benchmarks.measurement import STAGES  # noqa: E402
from benchmarks.processes import measure_in_process  # noqa: E402
from benchmarks.workloads import Workload, prepare, random_data  # noqa: E402

WIDTHS, EXAMPLES, QUERIES = (784, 512, 256, 128, 10), 6000, 200
SEGMENTS = 3


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.whole_audit", description=__doc__)
    parser.add_argument("--ground-truth", type=Path, metavar="DIR", help="folder with data.npz")
    parser.add_argument("--examples", type=int, default=EXAMPLES)
    parser.add_argument("--queries", type=int, default=QUERIES)
    parser.add_argument("--widths", type=int, nargs="+", default=list(WIDTHS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--alone", action="store_true", help="without the peer")
    parser.add_argument(
        "--environments",
        type=Path,
        default=REPOSITORY / "build" / "environments",
        help="where the peer is installed, once",
    )
    given = parser.parse_args(arguments)
    print(describe_machine(threads=1))
    workload = Workload("mlp", tuple(given.widths), given.examples, given.queries, 6, 6)
    python = (
        None
        if given.alone
        else make_environment(given.environments / "kronfluence", "kronfluence==1.0.1")
    )
    ours, theirs = [], []
    with tempfile.TemporaryDirectory() as name:
        folder, project = Path(name) / "workload", Path(name) / "project"
        folder.mkdir()
        prepare(workload, folder, _data(workload, given.ground_truth))
        make_project(project, server=None)
        # The first makes MLflow's database.
        run_in_project(project, _audit_of(folder))
        for _ in range(given.repeats):
            ours.append(run_in_project(project, _audit_of(folder))[1])
            if python is not None:
                found = measure_in_process(
                    python, "benchmarks.speed_kronfluence", [folder, "--batch-size", 256], threads=1
                )
                theirs.append(found.total(STAGES).cpu)
    print(table(ours, theirs))


def table(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """Return the CPU seconds and their ratio, in Markdown."""
    lines = ["| | CPU s |", "| --- | --- |", f"| whole audit, six checkpoints | {_range(ours)} |"]
    if theirs:
        lines.append(f"| kronfluence 1.0.1, one checkpoint | {_range(theirs)} |")
        lines.append(f"| ratio of the medians | {median(ours) / median(theirs):.2f} |")
    return "\n".join(lines)


def _range(values: Sequence[float]) -> str:
    return f"{median(values):.1f} ({min(values):.1f} to {max(values):.1f})"


def _audit_of(folder: Path) -> str:
    parameters = ",".join(
        [
            "task.class=benchmarks.speed_ours.WorkloadTask",
            f"task.arguments.folder={folder}",
            f"checkpoints.path={folder / 'checkpoints'}",
            f"segments.count={SEGMENTS}",
        ]
    )
    return (
        "from sourcetrace.__main__ import main; "
        f"main(['--pipelines', 'audit', '--params', {parameters!r}])"
    )


def _data(workload: Workload, ground_truth: Path | None) -> dict[str, tuple[Tensor, Tensor]]:
    if ground_truth is None:
        return random_data(workload)
    data = np.load(ground_truth / "data.npz")
    return {side: read_side(data, side) for side in ("train", "query")}


if __name__ == "__main__":
    main()
