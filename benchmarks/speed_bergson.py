"""Bergson's EK-FAC collectors on the MLP of a workload's folder, measured; `speed.py` runs it.

    python -m benchmarks.speed_bergson FOLDER --measurement FILE [--scores FILE]

Needs bergson, and of this repository only what needs torch alone. Its commands take Hugging Face
language models and token data sets; its collectors hook any module whose activations are
[batch, positions, width], so the MLP runs with one position an example: covariances,
eigendecomposition, corrected eigenvalues, and scores by its collector in memory and its scorer of
preconditioned query gradients. Convolutions its collectors refuse.
"""

import argparse
import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812, the name everybody reads
from benchmarks.measurement import STAGES, Measurement, Stopwatch
from benchmarks.workloads import (
    batches,
    draw_labels,
    final_network,
    margin,
    read_data,
    read_workload,
)
from bergson.collector.in_memory_collector import InMemoryCollector
from bergson.config import IndexConfig, InversionConfig
from bergson.gradients import GradientProcessor
from bergson.hessians.eigenvectors import LambdaCollector, eigendecompose_owned
from bergson.hessians.kfac import CovarianceCollector
from bergson.hessians.preconditioner import FactoredPreconditioner
from bergson.score.score_writer import InMemorySequenceScoreWriter
from bergson.score.scorer import Scorer
from torch import Tensor, nn

COVARIANCES, EIGENDECOMPOSITION, CORRECTED_EIGENVALUES, SCORES = STAGES


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure one run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--measurement", type=Path, required=True, help="JSON is written there")
    parser.add_argument("--scores", type=Path, help="scores [Q, N] are written there")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--labels", choices=("sampled", "given"), default="sampled")
    parser.add_argument("--seed", type=int, default=0, help="of the drawn labels")
    given = parser.parse_args(arguments)
    if read_workload(given.folder).network != "mlp":
        parser.error("bergson's collectors take linear layers; only --workload mlp can be run")
    logging.disable(logging.INFO)
    torch.manual_seed(given.seed)
    sides = read_data(given.folder)
    inputs, labels = sides["train"]
    model = final_network(given.folder)
    data = batches(inputs.unsqueeze(1), labels, given.batch_size)
    watch = Stopwatch()
    with tempfile.TemporaryDirectory() as output:
        options: dict[str, Any] = {
            "model": model,
            "path": output,
            "processor": GradientProcessor(include_bias=True),
            "dtype": torch.float32,
        }
        watch.start(COVARIANCES)
        sums = CovarianceCollector(**options)
        _collect(model, data, sums, sampled=given.labels == "sampled")
        watch.start(EIGENDECOMPOSITION)
        vectors = [
            eigendecompose_owned(
                covariances, shapes, None, len(labels), f"{output}/{side}", torch.float32
            )[0]
            for side, covariances, shapes in (
                ("eigen_activation_sharded", sums.A_cov_dict, sums.A_shapes),
                ("eigen_gradient_sharded", sums.S_cov_dict, sums.S_shapes),
            )
        ]
        watch.start(CORRECTED_EIGENVALUES)
        corrections = LambdaCollector(
            **options, num_documents=len(labels), eigenvectors=(vectors[0], vectors[1])
        )
        _collect(model, data, corrections, sampled=given.labels == "sampled")
        watch.start(SCORES)
        scores = _scores(model, sides, Path(output), given.batch_size)
        watch.stop()
    if given.scores is not None:
        # Theirs are products with an example's gradient, ours effects on a mean loss: 1/N apart.
        torch.save(scores / len(labels), given.scores)
    Measurement(watch.costs, {}).write(given.measurement)


def _scores(
    model: nn.Module, sides: Mapping[str, tuple[Tensor, Tensor]], factors: Path, batch_size: int
) -> Tensor:
    """Return the pairwise scores of influence functions, [Q, N]."""
    inputs, labels = sides["query"]
    queries = InMemoryCollector(**_collector_options(model, len(labels)))
    _gather(model, batches(inputs.unsqueeze(1), labels, batch_size), queries, margin)
    # The same rule for the damping as ours.
    inverse = FactoredPreconditioner.from_shards(
        factors, rank=0, device="cpu", inversion_cfg=InversionConfig(), ev_correction=True
    )
    filtered = inverse.apply(queries.gradients)
    inputs, labels = sides["train"]
    scorer = Scorer(
        filtered,
        list(filtered),
        InMemorySequenceScoreWriter(len(labels), len(sides["query"][1])),
        torch.device("cpu"),
        torch.float32,
    )
    training = InMemoryCollector(**_collector_options(model, len(labels)), scorer=scorer)
    _gather(model, batches(inputs.unsqueeze(1), labels, batch_size), training, _cross_entropy)
    found: Tensor = training.scores.T
    return found


def _collector_options(model: nn.Module, count: int) -> dict[str, Any]:
    """Return what it takes to collect the gradients of so many examples."""
    # Of the data set it asks the length alone; of the model, as of a Hugging Face one, the device.
    model.device = torch.device("cpu")
    return {
        "model": model,
        "data": range(count),
        "cfg": IndexConfig(run_path="", include_bias=True),
        "processor": GradientProcessor(include_bias=True),
    }


def _gather(
    model: nn.Module,
    data: Sequence[tuple[Tensor, Tensor]],
    collector: Any,
    measure: Callable[[Tensor, Tensor], Tensor],
) -> None:
    """Run every batch forward and backward under the collector's hooks, and close it."""
    first = 0
    for inputs, labels in data:
        with collector.with_batch(torch.ones(inputs.shape[:2], dtype=torch.bool)):
            values = measure(model(inputs).squeeze(1), labels)
            values.sum().backward()
            model.zero_grad()
        rows = list(range(first, first + len(labels)))
        collector.process_batch(rows, losses=values.detach())
        first += len(labels)
    collector.teardown()


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels, reduction="none")


def _collect(
    model: nn.Module, data: Sequence[tuple[Tensor, Tensor]], collector: Any, *, sampled: bool
) -> None:
    """Run every batch forward and backward under the collector's hooks, and close it."""
    for inputs, labels in data:
        with collector.with_batch(torch.ones(inputs.shape[:2], dtype=torch.bool)):
            logits = model(inputs).squeeze(1)
            targets = draw_labels(logits) if sampled else labels
            F.cross_entropy(logits, targets, reduction="sum").backward()
            model.zero_grad()
        collector.process_batch([])
    collector.teardown()


if __name__ == "__main__":
    main()
