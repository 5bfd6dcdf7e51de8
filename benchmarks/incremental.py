"""What an audit of changed data takes beside the one before it, and how near a full one it is.

    OMP_NUM_THREADS=1 python -m benchmarks.incremental --ground-truth DIR [--epochs 6]

The numerical stages without Kedro, on the first 6,000 MNIST images at six checkpoints in three
segments: a share of the examples get another label, are removed, are added, or a third each; but
for the first, the curvature of the data before is kept. How near two full audits are that draw
other labels from the model says the last one. CPU seconds of set-up, extraction, fitting and
scoring, without the ingest and imports.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from benchmarks.ground_truth_data import read_side
from benchmarks.workloads import Workload, build_network, prepare
from scipy.stats import spearmanr
from torch.utils.data import TensorDataset

from sourcetrace.audit.identity.made_of import MadeOf
from sourcetrace.checkpoints.folder import CheckpointFolder
from sourcetrace.datasets.gradient_cache import GradientCache
from sourcetrace.parameters import AttributionParameters, GradientParameters, SegmentParameters
from sourcetrace.pipelines.checkpoint_ingest.nodes import ingest_checkpoints
from sourcetrace.pipelines.set_up.nodes import set_up_audit
from sourcetrace.pipelines.shared.inputs import check_inputs
from sourcetrace.pipelines.source_scoring.tables import TABLES
from sourcetrace.pipelines.source_scoring.work import score
from sourcetrace.tasks import ClassificationTask

WIDTHS, EXAMPLES = (784, 512, 256, 128, 10), 6000


class Digits(ClassificationTask):
    """Some of the training images, under names that stay with them."""

    def __init__(self, workload: Workload, data: Any, numbers: Sequence[int], labels: Any) -> None:
        self.workload, self.data, self.numbers, self.labels = workload, data, numbers, labels

    def build_model(self) -> torch.nn.Module:
        """Return the network."""
        return build_network(self.workload)

    def train_examples(self) -> TensorDataset:
        """Return the images that are there."""
        own = torch.tensor(self.numbers)
        return TensorDataset(self.data["train"][0][own], self.labels[own])

    def query_examples(self) -> TensorDataset:
        """Return the queries."""
        return TensorDataset(*self.data["query"])

    def train_table(self) -> pl.DataFrame:
        """Return their names."""
        return pl.DataFrame({"example_id": [f"e{number}" for number in self.numbers]})

    def query_table(self) -> pl.DataFrame:
        """Return the queries' names."""
        return pl.DataFrame({"example_id": [f"q{i}" for i in range(self.workload.queries)]})


def audit(
    task: Digits, checkpoints: CheckpointFolder, ledger: Path, **options: float
) -> tuple[float, pl.DataFrame]:
    """Return the CPU seconds of an audit, and its scores and harm."""
    attribution = AttributionParameters.model_validate({"device": "cpu", **options})
    identity, manifest, _, *tables, digests, examples = ingest_checkpoints(
        checkpoints, task, SegmentParameters(count=3), attribution
    )
    parameters = {
        "task": {"class": "benchmarks.Digits"},
        "segments": {"count": 3},
        "attribution": attribution.model_dump(mode="json"),
    }
    made_of = MadeOf.of(parameters, **identity, code="")
    inputs = check_inputs(made_of, manifest, *tables, digests, examples, checkpoints, task)
    start = time.process_time()
    setup = set_up_audit(inputs, GradientCache(ledger), GradientParameters(), attribution)
    parts = zip(TABLES, zip(*score(setup).parts, strict=True), strict=False)
    seconds = time.process_time() - start
    files = {name: [one.path for one in own] for name, own in parts}
    scores, harm = (
        pl.read_parquet(files[name]) for name in ("attribution_scores", "query_influence")
    )
    return seconds, scores.join(harm.select("example_id", "harm"), on="example_id")


def correlations(found: pl.DataFrame, full: pl.DataFrame) -> list[float]:
    """Return rank correlations: of all scores, a query's on average and at least, of harm."""
    one, other = (table["scores"].to_numpy() for table in (found, full))
    queries = [spearmanr(a, b).statistic for a, b in zip(one.T, other.T, strict=True)]
    harm = spearmanr(found["harm"], full["harm"]).statistic
    return [spearmanr(one, other, axis=None).statistic, np.mean(queries), min(queries), harm]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.incremental", description=__doc__)
    parser.add_argument("--ground-truth", type=Path, required=True, help="has mnist/data.npz")
    parser.add_argument("--queries", type=int, default=50)
    parser.add_argument("--examples", type=int, default=EXAMPLES)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--share", type=float, default=0.01)
    parser.add_argument("--kinds", nargs="*", help="removed, added, …; all without it")
    given = parser.parse_args(arguments)
    workload = Workload(
        "mlp", WIDTHS, given.examples, given.queries, epochs=given.epochs, checkpoints=6
    )
    raw = np.load(given.ground_truth / "mnist" / "data.npz")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        prepare(workload, root, {side: read_side(raw, side) for side in ("train", "query")})
        data = torch.load(root / "data.pt", weights_only=True)
        checkpoints, labels = CheckpointFolder(root / "checkpoints"), data["train"][1]
        order = torch.randperm(given.examples, generator=torch.Generator().manual_seed(1)).tolist()
        picked = order[: round(given.share * given.examples)]
        every, third = range(given.examples), len(picked) // 3

        def relabelled(numbers: Sequence[int]) -> Any:
            changed = labels.clone()
            changed[numbers] = (changed[numbers] + 1) % 10
            return changed

        def without(numbers: Sequence[int]) -> list[int]:
            return [number for number in every if number not in set(numbers)]

        whole, kept = (every, labels), {"kept_curvature": 0.1}
        kinds: dict[str, tuple[Any, Any, dict[str, float]]] = {
            "relabelled": (whole, (every, relabelled(picked)), {}),
            "removed": (whole, (without(picked), labels), kept),
            "added": ((without(picked), labels), whole, kept),
            "mixed": (
                (without(picked[:third]), labels),
                (without(picked[third : 2 * third]), relabelled(picked[2 * third :])),
                kept,
            ),
            "redrawn": (None, whole, {"seed": 1}),
        }
        for kind in given.kinds or kinds:
            before, after, options = kinds[kind]
            if before:
                audit(Digits(workload, data, *before), checkpoints, root / kind)
            taken, found = audit(
                Digits(workload, data, *after), checkpoints, root / kind, **options
            )
            seconds, full = audit(
                Digits(workload, data, *after), checkpoints, root / f"{kind}-full"
            )
            rhos = ", ".join(f"{one:.6f}" for one in correlations(found, full))
            off = np.linalg.norm(found["scores"] - full["scores"]) / np.linalg.norm(full["scores"])
            print(
                f"{kind}: {seconds:.1f} s, {taken:.1f} s; rank correlations {rhos}; off {off:.1e}"
            )


if __name__ == "__main__":
    main()
