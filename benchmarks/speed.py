"""Wall and CPU seconds, peak memory and scores beside peers, on the same data and weights.

    python -m benchmarks.speed --workload mlp --ground-truth DIR [--repeats 5] [--exact]
    python -m benchmarks.speed --workload resnet9

Every measurement is a process of its own, one after the other, the packages in turn (A B C A B C);
medians are printed with their range. Stages are timed inside the process, so that starting Python
and reading the data count for nobody; peak memory holds them for everybody.

Peers: EK-FAC fit and pairwise scores of one checkpoint by kronfluence 1.0.1, and by the collectors
of bergson 2.5.1, which take linear layers alone. They are installed into
virtual environments under --environments, on top of this interpreter's torch, and kept there.

The MLP takes its data from DIR/data.npz (Gaussian inputs without --ground-truth) and is trained
here; ResNet-9 sees random images. Labels are drawn from the model, by every package its own way
and with another seed in every run: "own Pearson", between a package's first two runs, is what the
draws leave of an agreement. `--labels given` takes the given ones, so that scores differ by
rounding alone.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

# Run as a file, Python looks for modules beside it and not in the repository's root.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.agreement import pearson, relative_error
from benchmarks.contestants import Contestant, measure_in_turn, scores_file
from benchmarks.environments import REPOSITORY, make_environment
from benchmarks.ground_truth_data import read_side
from benchmarks.machine import describe_machine
from benchmarks.measurement import STAGES
from benchmarks.processes import measure_in_process
from benchmarks.speed_tables import Comparison, Measured, comparison_table, stage_table
from benchmarks.workloads import WORKLOADS, Workload, prepare, random_data

OURS = "sourcetrace"
RECOMPUTED = "sourcetrace, gradients recomputed"
SOURCE = "sourcetrace, Source"
SOURCE_OF_ONE = "sourcetrace, Source of one checkpoint"
KRONFLUENCE = "kronfluence 1.0.1"
BERGSON = "bergson 2.5.1"
PEERS = {"kronfluence": KRONFLUENCE, "bergson": BERGSON}

_NOT_NEEDED = {"bergson": ("torchvision", "torchaudio")}
"""Neither is imported by bergson, and neither loads beside a CPU build of torch."""

_EXACT_QUERIES, _EXACT_EXAMPLES = 20, 1000
"""Pairs that --exact computes in float64."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables of one workload."""
    given = _parse(arguments)
    console = Console(highlight=False, width=160)
    console.print(describe_machine(threads=given.threads))
    workload = _workload(given)
    console.print(
        f"{given.workload} {'–'.join(map(str, workload.widths))}: N = {workload.examples}, "
        f"Q = {workload.queries}; labels {given.labels}; median of {given.repeats} "
        "(smallest to largest)"
    )
    contestants = _contestants(given)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(workload, folder, _data(workload, given.ground_truth))
        measured = measure_in_turn(
            contestants,
            folder,
            folder,
            repeats=given.repeats,
            threads=given.threads,
            console=console,
        )
        console.print(stage_table(measured))
        for comparison in _comparisons(given.workload, [one.name for one in contestants]):
            console.print(comparison_table(comparison, measured))
        if given.exact:
            _print_exact(given, contestants, measured, folder, console)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workload", choices=sorted(WORKLOADS), default="mlp")
    parser.add_argument("--ground-truth", type=Path, metavar="DIR", help="folder with data.npz")
    parser.add_argument("--examples", type=int, help="N, instead of the workload's")
    parser.add_argument("--queries", type=int, help="Q, instead of the workload's")
    parser.add_argument("--widths", type=int, nargs="+", help="of the network; see workloads.py")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--peers", nargs="*", choices=sorted(PEERS), default=sorted(PEERS))
    parser.add_argument("--labels", choices=("sampled", "given"), default="sampled")
    parser.add_argument("--batch-size", type=int, help="ours; 1000, for resnet9 16")
    parser.add_argument("--peer-batch-size", type=int, help="theirs; 256, for resnet9 16")
    parser.add_argument(
        "--exact",
        action="store_true",
        help=f"compare with exact filters in float64: {_EXACT_QUERIES} queries, "
        f"the first {_EXACT_EXAMPLES} examples",
    )
    parser.add_argument(
        "--environments",
        type=Path,
        default=REPOSITORY / "build" / "environments",
        help="where peers are installed, once",
    )
    return parser.parse_args(arguments)


def _workload(given: argparse.Namespace) -> Workload:
    workload = WORKLOADS[given.workload]
    return replace(
        workload,
        examples=given.examples or workload.examples,
        queries=given.queries or workload.queries,
        widths=tuple(given.widths or workload.widths),
    )


def _data(workload: Workload, ground_truth: Path | None) -> dict[str, tuple[Tensor, Tensor]]:
    if ground_truth is None or workload.network != "mlp":
        return random_data(workload)
    data = np.load(ground_truth / "data.npz")
    return {side: read_side(data, side) for side in ("train", "query")}


def _contestants(given: argparse.Namespace) -> list[Contestant]:
    convolutions = given.workload == "resnet9"
    labels = ("--labels", given.labels)
    own_size = given.batch_size or (16 if convolutions else 1000)
    peer_size = given.peer_batch_size or (16 if convolutions else 256)
    own = (*labels, "--batch-size", own_size)

    def ours(name: str, *more: object) -> Contestant:
        return Contestant(name, sys.executable, "benchmarks.speed_ours", (*own, *more))

    if convolutions:
        # Written-out gradients of convolutions are too large to keep: a pipeline recomputes them.
        found = [ours(OURS, "--cache", "recompute")]
    else:
        found = [
            ours(OURS),
            ours(RECOMPUTED, "--cache", "recompute"),
            ours(SOURCE_OF_ONE, "--method", "source", "--last"),
            ours(SOURCE, "--method", "source", "--segments", 3),
        ]
    for peer in given.peers:
        if peer == "bergson" and convolutions:
            continue
        home = given.environments / peer
        requirement = PEERS[peer].replace(" ", "==")
        found.append(
            Contestant(
                PEERS[peer],
                make_environment(home, requirement, without=_NOT_NEEDED.get(peer, ())),
                f"benchmarks.speed_{peer}",
                (*labels, "--batch-size", peer_size),
            )
        )
    return found


def _comparisons(workload: str, names: Sequence[str]) -> list[Comparison]:
    """Return what is compared, less those who do not take part."""
    fit, corrected = STAGES[:3], STAGES[2:3]
    if workload == "resnet9":
        found = [
            Comparison("corrected eigenvalues alone", corrected, (OURS, KRONFLUENCE)),
            Comparison(
                "(d) EK-FAC fit and pairwise scores, one checkpoint", STAGES, (OURS, KRONFLUENCE)
            ),
        ]
    else:
        everybody = (OURS, RECOMPUTED, KRONFLUENCE, BERGSON)
        found = [
            Comparison("(a) corrected eigenvalues alone", corrected, everybody),
            Comparison("EK-FAC fit, one checkpoint", fit, everybody),
            Comparison(
                "(b) EK-FAC fit and pairwise scores, one checkpoint: Source, influence functions",
                STAGES,
                (SOURCE_OF_ONE, *everybody),
            ),
            Comparison(
                "(c) Source, six checkpoints in three segments, and influence functions of one",
                STAGES,
                (SOURCE, KRONFLUENCE),
            ),
        ]
    return [replace(one, names=tuple(name for name in one.names if name in names)) for one in found]


def _print_exact(
    given: argparse.Namespace,
    contestants: Sequence[Contestant],
    measured: dict[str, Measured],
    folder: Path,
    console: Console,
) -> None:
    """Print how far the scores are from those of the exact filters in float64."""
    exact: dict[str, Tensor] = {}
    for own in [one for one in contestants if one.name in (OURS, SOURCE_OF_ONE, SOURCE)]:
        file = scores_file(folder, f"exact {own.name}", 0)
        more = ("--dtype", "float64", "--tolerance", 0, "--scores", file)
        subset = ("--queries", _EXACT_QUERIES, "--scored-examples", _EXACT_EXAMPLES)
        with console.status(f"{own.name}, exact"):
            arguments = [folder, *own.arguments, *more, *subset]
            measure_in_process(own.python, own.module, arguments, threads=given.threads)
        exact[own.name] = torch.load(file, weights_only=True)
    for one in contestants:
        expected = exact.get(one.name, exact[OURS])
        found = measured[one.name].scores[0][: expected.shape[0], : expected.shape[1]]
        console.print(
            f"{one.name}, against exact filters in float64 ({len(expected)} queries × "
            f"{expected.shape[1]} examples): Pearson {pearson(found, expected):.7f}, "
            f"relative error {relative_error(found, expected):.2g}"
        )


if __name__ == "__main__":
    main()
