"""What audits of other sizes would take: a cost model fitted here, checked, and carried to others.

    python -m benchmarks.capacity --measured FILE [--skip-measuring]

Multiplications of a stage, by the shapes of layers: N examples of T tokens, Q queries, K
checkpoints in S segments, P attributed parameters, C = Σ (D_in² + D_out²) over layers. A pass is
T · P multiplications, forward or backward.

| stage | multiplications |
| --- | --- |
| extraction | N K T (3 P + C) + Q K T P |
| fitting | N K T (3 P + C) + 9 S Σ (D_in³ + D_out³) |
| scoring | N K T (3 P + C) + N (2 K + Q + 1) P + Q (3 T P + 2 S Σ D_in D_out (D_in + D_out)) |

Gradients are computed again by each stage. Seconds of a stage are `fixed` + `visit` · N K +
multiplications / (`efficiency` · the rate of large products in the same process), fitted to CPU
seconds of audits of MLPs on one thread by least squares of relative errors; the last point is not
fitted but predicted. Elsewhere `fixed` and `visit` are left out, and the efficiency is `ASSUMED` of
a device's published dense rate, `EIGENVECTORS` of its float32 rate for eigendecompositions.
"""

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import nnls

REPOSITORY = Path(__file__).resolve().parents[1]
if str(REPOSITORY) not in sys.path:
    sys.path.insert(0, str(REPOSITORY))

from benchmarks.audit_growth import STAGES, audit  # noqa: E402, works as a file, too
from benchmarks.machine import describe_machine  # noqa: E402
from benchmarks.workloads import CLASSES  # noqa: E402

ASSUMED, EIGENVECTORS = 0.3, 0.05
"""Shares of a device's published rates: of dense products in TF32, of float32."""

DISK = 1e9
"""Bytes a second that a device's share of the storage is assumed to write and read."""

UNIT, LONGEST, SUMS_A_SECOND = 10.0, 600.0, 25e6
"""Seconds of a unit of work and at most, and bytes of sums to a second of it, as audits have it."""

WAITING = 1.2
"""A night over its ideal, as `benchmarks.night` has it for units of 200 s."""


@dataclass(frozen=True)
class Model:
    """What is multiplied in a model.

    Attributes:
        name: Of it.
        layers: Inputs, outputs and how many there are, of every shape of attributed layer.
        tokens: T, of an example.
    """

    name: str
    layers: Sequence[tuple[int, int, int]]
    tokens: int = 1

    @property
    def parameters(self) -> int:
        """P."""
        return sum(count * inputs * outputs for inputs, outputs, count in self.layers)

    @property
    def covariances(self) -> int:
        """C, numbers of a checkpoint's covariances."""
        return sum(count * (inputs**2 + outputs**2) for inputs, outputs, count in self.layers)

    @property
    def sums(self) -> int:
        """Bytes of the covariances of a checkpoint, and of every part of them."""
        return 8 * self.covariances

    @property
    def cubes(self) -> int:
        """Multiplications of the eigendecompositions of a segment."""
        return 9 * sum(count * (inputs**3 + outputs**3) for inputs, outputs, count in self.layers)

    @property
    def rotations(self) -> int:
        """Multiplications of a written-out gradient's way into the eigenbases and back."""
        return 2 * sum(
            count * inputs * outputs * (inputs + outputs) for inputs, outputs, count in self.layers
        )


@dataclass(frozen=True)
class Size:
    """An audit's.

    Attributes:
        model: What is audited.
        examples: N.
        queries: Q.
        checkpoints: K.
        segments: S.
    """

    model: Model
    examples: int
    queries: int
    checkpoints: int
    segments: int

    @property
    def multiplications(self) -> Mapping[str, float]:
        """Of every stage, without eigendecompositions."""
        model, visits = self.model, self.examples * self.checkpoints
        forward = model.tokens * model.parameters
        everywhere = visits * (3 * forward + model.tokens * model.covariances)
        products = self.examples * (2 * self.checkpoints + self.queries + 1) * model.parameters
        queries = self.queries * (3 * forward + self.segments * model.rotations)
        return {
            "extraction": everywhere + self.queries * self.checkpoints * forward,
            "fitting": everywhere,
            "scoring": everywhere + products + queries,
        }

    @property
    def eigenvectors(self) -> int:
        """Multiplications of all eigendecompositions."""
        return self.segments * self.model.cubes


@dataclass(frozen=True)
class Device:
    """An accelerator, by what its maker publishes.

    Attributes:
        name: Of it.
        dense: TF32 operations a second, without sparsity.
        single: Float32 operations a second.
        memory: Bytes.
    """

    name: str
    dense: float
    single: float
    memory: float


DEVICES = (
    Device("A100 80 GB", 156e12, 19.5e12, 80e9),
    Device("H100 SXM", 495e12, 67e12, 80e9),
    Device("H200", 495e12, 67e12, 141e9),
)


def decoder(name: str, blocks: int, width: int, inner: int, keys: int, tokens: int) -> Model:
    """Return a decoder with gated MLPs and grouped keys; embeddings are not attributed."""
    shapes = ((width, width, 2), (width, keys, 2), (width, inner, 2), (inner, width, 1))
    return Model(name, [(i, o, count * blocks) for i, o, count in shapes], tokens)


MODELS = (
    decoder("1B (16 blocks of 2,048 and 8,192)", 16, 2048, 8192, 512, 512),
    decoder("70B (80 blocks of 8,192 and 28,672)", 80, 8192, 28672, 1024, 512),
)
POINTS = ((3000, 128), (6000, 256), (12000, 128), (3000, 512), (6000, 512))
HELD_OUT = (12000, 1024)
INPUTS, QUERIES, CHECKPOINTS, SEGMENTS = 784, 20, 2, 1


def mlp(width: int) -> Model:
    """Return the MLP that is measured, biases as inputs."""
    widths = (INPUTS, width, width // 2, CLASSES)
    return Model(f"MLP {width}", [(i + 1, o, 1) for i, o in pairwise(widths)])


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, fit, check and predict."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--measured", type=Path, required=True, help="JSON; kept for later")
    given = parser.parse_args(arguments)
    print(describe_machine(threads=1))
    if not given.measured.exists():
        given.measured.write_text(json.dumps(measure()))
    measured = json.loads(given.measured.read_text())
    print(fit_table(measured))
    print(predictions())


def measure() -> dict[str, Any]:
    """Return the rate of products and every point's CPU seconds by stage."""
    points = []
    for examples, width in (*POINTS, HELD_OUT):
        found = audit(
            [INPUTS, width, width // 2, CLASSES],
            examples=examples,
            queries=QUERIES,
            checkpoints=CHECKPOINTS,
            parameters={
                "segments": {"count": SEGMENTS},
                "gradients": {"cache": "recompute", "batch_size": 1000},
            },
            to="score_examples",
        )
        seconds = {stage: found.nodes.costs[node].cpu for node, stage in STAGES.items()}
        points.append({"examples": examples, "width": width, "seconds": seconds})
        print(points[-1], file=sys.stderr, flush=True)
    return {"rate": _rate(), "points": points}


def fit_table(measured: Mapping[str, Any]) -> str:
    """Return what was fitted, and measured and predicted seconds of every point."""
    rate, points = measured["rate"], measured["points"]
    sizes = [
        Size(mlp(one["width"]), one["examples"], QUERIES, CHECKPOINTS, SEGMENTS) for one in points
    ]
    lines = [
        f"{rate:.2e} multiplications a second",
        "",
        "| stage | fixed, s | a visit, µs | efficiency | largest error of the fit | held out: "
        "predicted, s | measured, s | error |",
        "|" + " --- |" * 8,
    ]
    for stage in STAGES.values():
        seconds = np.array([one["seconds"][stage] for one in points])
        work = np.array(
            [
                one.multiplications[stage] + (one.eigenvectors if stage == "fitting" else 0)
                for one in sizes
            ]
        )
        visits = np.array([one.examples * one.checkpoints for one in sizes])
        terms = np.stack([np.ones(len(sizes)), visits, work / rate], axis=1)
        weights, _ = nnls(terms[:-1] / seconds[:-1, None], np.ones(len(sizes) - 1))
        errors = terms @ weights / seconds - 1
        lines.append(
            f"| {stage} | {weights[0]:.2f} | {1e6 * weights[1]:.1f} | {_inverse(weights[2])} "
            f"| {np.abs(errors[:-1]).max():.0%} | {terms[-1] @ weights:.2f} | {seconds[-1]:.2f} "
            f"| {errors[-1]:+.0%} |"
        )
    return "\n".join(lines)


def predictions(queries: int = 100, checkpoints: int = 4, segments: int = 2) -> str:
    """Return what audits would take on named devices."""
    lines = [
        f"Q = {queries}, K = {checkpoints}, S = {segments}",
        "",
        "| model | N | device | extraction | fitting | eigenvectors | scoring | files | device "
        "hours | hours on 8 | on 1,000 |",
        "|" + " --- |" * 11,
    ]
    for model in MODELS:
        for examples in (10**6, 10**9):
            size = Size(model, examples, queries, checkpoints, segments)
            for device in DEVICES[:2]:
                hours = device_hours(size, device)
                total = sum(hours.values())
                cells = [
                    model.name,
                    f"10^{len(str(examples)) - 1}",
                    device.name,
                    *(_short(one) for one in hours.values()),
                    _short(total),
                    _short(WAITING * total / 8),
                    _short(WAITING * total / 1000),
                ]
                lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "| model | P | weights in float32, GB | which alone fit | covariances of a checkpoint, TB "
        "| curvature of a segment, TB | parts that wait to be added, N = 10^6, TB |",
        "|" + " --- |" * 7,
    ]
    for model in MODELS:
        weights = 4 * model.parameters
        fits = [one.name for one in DEVICES if weights < one.memory]
        size = Size(model, 10**6, queries, checkpoints, segments)
        cells = [
            model.name,
            f"{model.parameters:.2e}",
            f"{weights / 1e9:.0f}",
            ", ".join(fits) or "none of them",
            f"{model.sums / 1e12:.2f}",
            f"{4 * (model.covariances + model.parameters) / 1e12:.2f}",
            _short(waiting_parts(size, DEVICES[1]) * model.sums / 1e12),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    scores = ", ".join(f"{4 * n * queries / 1e9:,.1f} GB for {n:,}" for n in (10**6, 10**9))
    return "\n".join([*lines, "", f"Scores in float32: {scores} examples"])


def waiting_parts(size: Size, device: Device) -> int:
    """Return how many units of a point's extraction there are; each has all its covariances."""
    seconds = 2 * size.multiplications["extraction"] / (ASSUMED * device.dense)
    points = ceil(size.checkpoints / size.segments)
    unit = min(LONGEST / points, max(UNIT, size.model.sums / SUMS_A_SECOND))
    return ceil(seconds / size.checkpoints / unit)


def device_hours(size: Size, device: Device) -> dict[str, float]:
    """Return the hours of one device by stage; two operations are a multiplication."""
    found = {
        stage: 2 * work / (ASSUMED * device.dense) / 3600
        for stage, work in size.multiplications.items()
    }
    eigenvectors = 2 * size.eigenvectors / (EIGENVECTORS * device.single) / 3600
    model, parts = size.model, size.checkpoints * waiting_parts(size, device)
    curvature = 4 * size.segments * (model.covariances + model.parameters)
    written = (parts + size.checkpoints) * model.sums + curvature
    # Written once, read once.
    files = 2 * (written + 4 * size.examples * size.queries) / DISK / 3600
    return {
        "extraction": found["extraction"],
        "fitting": found["fitting"],
        "eigenvectors": eigenvectors,
        "scoring": found["scoring"],
        "files": files,
    }


def _inverse(weight: float) -> str:
    return f"{1 / weight:.2f}" if weight else "not seen"


def _short(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 10 else f"{hours:.2g}"  # noqa: PLR2004


def _rate(size: int = 1024, repeats: int = 10) -> float:
    """Return multiplications a CPU second of large products, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    matrix = torch.randn(size, size)
    matrix @ matrix
    start = time.process_time()
    for _ in range(repeats):
        matrix @ matrix
    seconds = time.process_time() - start
    torch.set_num_threads(threads)
    return repeats * size**3 / seconds


if __name__ == "__main__":
    main()
