"""How a whole audit grows with examples and with processes: seconds a stage, memory a process.

    python -m benchmarks.audit_growth --examples 10000 100000 1000000
    python -m benchmarks.audit_growth --examples 6000 --inputs 784 --width 512 --processes 1 2

`kedro run --pipelines audit` of an MLP inputs–W–W/2–10 on random inputs that repeat under names of
their own, with `launch.processes`, one thread each. Wall seconds are those of the nodes, in the
process that runs Kedro. CPU seconds and peak memory are read from the system for every process of
the run while it lives. Exponents are the slopes of logarithms against that of the number of
examples, by least squares.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

REPOSITORY = Path(__file__).resolve().parents[1]
if str(REPOSITORY) not in sys.path:
    sys.path.insert(0, str(REPOSITORY))

from benchmarks.machine import describe_machine  # noqa: E402, works as a file, too
from benchmarks.measurement import Measurement  # noqa: E402
from benchmarks.nodes import run_watched  # noqa: E402
from benchmarks.processes import THREAD_VARIABLES, make_project  # noqa: E402
from benchmarks.scaling import fitted_exponent  # noqa: E402
from benchmarks.scaling_point import ScalingTask, write_checkpoints  # noqa: E402
from benchmarks.workloads import CLASSES, Workload  # noqa: E402

STAGES = {
    "extract_gradients": "extraction",
    "fit_curvature": "fitting",
    "score_examples": "scoring",
}
_SAMPLED_SECONDS = 0.2


class GrowingTask(ScalingTask):
    """An MLP on repeated random examples, as parameters name it.

    Args:
        widths: Of its layers, inputs first.
        examples: N.
        queries: Q.
    """

    def __init__(self, widths: Sequence[int], examples: int, queries: int) -> None:
        super().__init__(Workload("mlp", tuple(widths), examples, queries, 0, 0))


@dataclass(frozen=True)
class Audit:
    """What an audit took.

    Attributes:
        nodes: Of the process that runs Kedro.
        processes: CPU seconds and largest resident memory of each process, the largest first.
        load: Mean load of the machine while it ran.
    """

    nodes: Measurement
    processes: Sequence[tuple[float, int]]
    load: float

    def row(self, examples: int, processes: int) -> str:
        """Return a line of the table, in Markdown."""
        stages = [self.nodes.costs[name] for name in STAGES]
        total = self.nodes.total(self.nodes.costs)
        cells = [
            f"{examples:,}",
            str(processes),
            *(f"{cost.wall:.1f} ({cost.cpu:.1f})" for cost in (*stages, total)),
            "; ".join(f"{cpu:.0f} s, {peak / 1e6:.0f} MB" for cpu, peak in self.processes),
            f"{self.load:.1f}",
        ]
        return f"| {' | '.join(cells)} |"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--examples", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--processes", type=int, nargs="+", default=[1])
    parser.add_argument("--repeats", type=int, default=1, help="each, in turn")
    parser.add_argument("--queries", type=int, default=10)
    parser.add_argument("--inputs", type=int, default=16)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--checkpoints", type=int, default=2)
    parser.add_argument("--segments", type=int, default=1)
    parser.add_argument("--unit-seconds", type=float, default=10.0)
    parser.add_argument("--cache", default="auto", help="gradients.cache")
    parser.add_argument("--to", default="", metavar="NODE", help="the last node")
    parser.add_argument("--nodes", action="store_true", help="every node of every run")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--measurement", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.inside:
        os.chdir(given.inside)
        command = ["--pipelines", "audit", *(["--to-nodes", given.to] if given.to else [])]
        run_watched(command).write(given.measurement)
        return
    print(describe_machine(threads=1))
    stages = " | ".join(f"{one}, wall (CPU) s" for one in STAGES.values())
    print(f"| N | processes | {stages} | all | CPU and peak memory of each process | load |")
    print("|" + " --- |" * (5 + len(STAGES)))
    found: dict[tuple[int, int], list[Audit]] = {}
    for _ in range(given.repeats):
        for examples in given.examples:
            for processes in given.processes:
                one = _audit(examples, processes, given)
                found.setdefault((examples, processes), []).append(one)
                print(one.row(examples, processes), flush=True)
                if given.nodes:
                    for name, cost in one.nodes.costs.items():
                        print(f"    {name}: {cost.wall:.1f} s, {cost.cpu:.1f} CPU s, "
                              f"{cost.peak_bytes / 1e6:.0f} MB", flush=True)  # fmt: skip
    if len(given.examples) > 1:
        print(_exponents(found, given.examples, given.processes[0]))


def _exponents(
    found: dict[tuple[int, int], list[Audit]], examples: Sequence[int], processes: int
) -> str:
    lines = []
    for name, stage in STAGES.items():
        seconds = [found[one, processes][0].nodes.costs[name].cpu for one in examples]
        lines.append(f"{stage} {fitted_exponent(examples, seconds):.2f}")
    peaks = [found[one, processes][0].processes[0][1] for one in examples]
    lines.append(f"peak memory {fitted_exponent(examples, peaks):.2f}")
    return f"exponents of CPU seconds: {', '.join(lines)}"


def write_project(
    project: Path,
    widths: Sequence[int],
    *,
    examples: int,
    queries: int,
    checkpoints: int,
    parameters: Mapping[str, Any],
) -> None:
    """Write a project that audits an MLP on random inputs.

    Args:
        project: A folder that is not there.
        widths: Of the MLP's layers, inputs first.
        examples: N.
        queries: Q.
        checkpoints: How many.
        parameters: Others, by group.
    """
    make_project(project, server=None)
    task = GrowingTask(widths, examples, queries)
    write_checkpoints(task.build_model, project / "checkpoints", checkpoints)
    arguments = {"widths": widths, "examples": examples, "queries": queries}
    written = {
        "task": {"class": "benchmarks.audit_growth.GrowingTask", "arguments": arguments},
        "checkpoints": {"path": "checkpoints"},
        **parameters,
    }
    (project / "conf/local/parameters.yml").write_text(json.dumps(written))


def audit(
    widths: Sequence[int],
    *,
    examples: int,
    queries: int,
    checkpoints: int,
    parameters: Mapping[str, Any],
    to: str = "",
) -> Audit:
    """Run one audit in a project of its own.

    Args:
        widths: As `write_project` takes them, and what follows.
        examples: N.
        queries: Q.
        checkpoints: How many.
        parameters: Others, by group.
        to: The last node; all if empty.
    """
    with tempfile.TemporaryDirectory() as name:
        project, measurement = Path(name) / "project", Path(name) / "measurement.json"
        write_project(
            project,
            widths,
            examples=examples,
            queries=queries,
            checkpoints=checkpoints,
            parameters=parameters,
        )
        options = ["--inside", project, "--measurement", measurement, "--to", to]
        running = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.audit_growth", *map(str, options)],
            cwd=REPOSITORY,
            env=os.environ | {"DO_NOT_TRACK": "true"} | dict.fromkeys(THREAD_VARIABLES, "1"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        return _sampled(running, measurement)


def _audit(examples: int, processes: int, given: argparse.Namespace) -> Audit:
    return audit(
        [given.inputs, given.width, given.width // 2, CLASSES],
        examples=examples,
        queries=given.queries,
        checkpoints=given.checkpoints,
        parameters={
            "segments": {"count": given.segments},
            "gradients": {"cache": given.cache},
            "launch": {"processes": processes, "unit_seconds": given.unit_seconds},
        },
        to=given.to,
    )


def _sampled(running: "subprocess.Popen[str]", measurement: Path) -> Audit:
    """Look at a run's processes until it ends."""
    parent = psutil.Process(running.pid)
    seen: dict[int, tuple[float, int]] = {}
    loads = []
    while running.poll() is None:
        loads.append(os.getloadavg()[0])
        try:
            for one in (parent, *parent.children(recursive=True)):
                times = one.cpu_times()
                before = seen.get(one.pid, (0.0, 0))[1]
                seen[one.pid] = times.user + times.system, max(before, one.memory_info().rss)
        except psutil.NoSuchProcess:
            pass  # between two looks
        time.sleep(_SAMPLED_SECONDS)
    if running.returncode:
        ending = running.stderr.read()[-2000:] if running.stderr else ""
        raise RuntimeError(f"exit code {running.returncode}:\n{ending}")
    # Helpers that live a moment are nobody's rank.
    ranks = sorted((one for one in seen.values() if one[0] > 1), key=lambda one: -one[1])
    return Audit(Measurement.read(measurement), ranks, sum(loads) / len(loads))


if __name__ == "__main__":
    main()
