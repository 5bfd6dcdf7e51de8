"""Each stage against its floor: its multiplications at the rate of large matrix products.

    python -m benchmarks.floor --ground-truth DIR [--method source] [--segments 3] [--last]

Stages run once to be counted by torch and then --repeats times to be timed; the fastest counts. The
rate is that of square products in the same process. What is no matrix product (element-wise work,
collating, Python) has no floor and shows in the ratio. The network is that of `benchmarks.speed`.
"""

import argparse
import logging
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

# Run as a file, Python looks for modules beside it and not in the repository's root.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.ground_truth_data import read_side
from benchmarks.machine import describe_machine
from benchmarks.measurement import STAGES, Cost, Stopwatch
from benchmarks.multiplications import MultiplicationCounter
from benchmarks.pipeline_run import run_pipeline
from benchmarks.speed_ours import WorkloadTask
from benchmarks.workloads import LAST, WORKLOADS, prepare, random_data

from sourcetrace.checkpoints.folder import CheckpointFolder
from sourcetrace.core.machine.timing import matmul_rate
from sourcetrace.parameters import AttributionParameters


class CountingStopwatch(Stopwatch):
    """Notes the multiplications of each stage instead of the time, which counting spoils.

    Args:
        counter: Open while the stages run.
    """

    def __init__(self, counter: MultiplicationCounter) -> None:
        super().__init__()
        self.multiplications: dict[str, int] = {}
        self._counter = counter
        self._stage, self._before = "", 0

    def start(self, stage: str) -> None:
        """End the running stage, if there is one, and start another."""
        self.stop()
        self._stage, self._before = stage, self._counter.total

    def stop(self) -> None:
        """End the running stage."""
        if self._stage:
            done = self._counter.total - self._before
            self.multiplications[self._stage] = self.multiplications.get(self._stage, 0) + done
        self._stage = ""


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a row a stage."""
    given = _parse(arguments)
    logging.disable(logging.WARNING)
    console = Console(highlight=False, width=140)
    console.print(describe_machine())
    workload = WORKLOADS["mlp"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = random_data(workload)
        if given.ground_truth is not None:
            archive = np.load(given.ground_truth / "data.npz")
            data = {side: read_side(archive, side) for side in ("train", "query")}
        prepare(workload, folder, data)
        counted, times = _measure(given, folder)
    rate = matmul_rate(torch.device("cpu"), torch.float32)
    console.print(f"{given.method}; {rate:.3g} multiplications a second in large products")
    console.print(floor_table(counted, times, rate))


def floor_table(counted: dict[str, int], times: dict[str, Cost], rate: float) -> Table:
    """Return multiplications, floor, time and their ratio by stage, and of all together."""
    table = Table(title_justify="left")
    for heading in ("stage", "multiplications", "floor, s", "wall s", "ratio"):
        table.add_column(heading, justify="left" if heading == "stage" else "right")
    rows = [(stage, counted[stage], times[stage].wall) for stage in STAGES]
    rows.append(("together", sum(row[1] for row in rows), sum(row[2] for row in rows)))
    for stage, multiplications, seconds in rows:
        floor = multiplications / rate
        ratio = f"{seconds / floor:.2f}" if floor else ""
        table.add_row(stage, f"{multiplications:.3g}", f"{floor:.3f}", f"{seconds:.3f}", ratio)
    return table


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ground-truth", type=Path, metavar="DIR", help="folder with data.npz")
    parser.add_argument("--method", default="source")
    parser.add_argument("--segments", type=int, default=3)
    parser.add_argument("--last", action="store_true", help="the last checkpoint alone")
    parser.add_argument("--repeats", type=int, default=3)
    return parser.parse_args(arguments)


def _measure(given: argparse.Namespace, folder: Path) -> tuple[dict[str, int], dict[str, Cost]]:
    checkpoints = CheckpointFolder(folder / (LAST if given.last else "checkpoints"))
    attribution = AttributionParameters(method=given.method, device="cpu")
    segments = 1 if given.last else given.segments

    def run(watch: Stopwatch) -> None:
        run_pipeline(WorkloadTask(folder), checkpoints, attribution, segments, watch=watch)

    with MultiplicationCounter() as counter:
        counting = CountingStopwatch(counter)
        run(counting)
    fastest: dict[str, Cost] = {}
    for _ in range(given.repeats):
        watch = Stopwatch()
        run(watch)
        for stage, cost in watch.costs.items():
            fastest[stage] = min(fastest.get(stage, cost), cost, key=lambda one: one.wall)
    return counting.multiplications, fastest


if __name__ == "__main__":
    main()
