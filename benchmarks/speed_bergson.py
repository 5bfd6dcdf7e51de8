"""Bergson's EK-FAC collectors on the MLP of a workload's folder, measured; `speed.py` runs it.

    python -m benchmarks.speed_bergson FOLDER --measurement FILE

Needs bergson, and of this repository only what needs torch alone. Its commands take Hugging Face
language models and token data sets; its collectors hook any module whose activations are
[batch, positions, width], so the MLP runs with one position an example. Three stages can be
compared: covariances, eigendecomposition and corrected eigenvalues. Its pairwise scores cannot,
being computed by those commands alone, nor can convolutions, which its collectors refuse.
"""

import argparse
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812, the name everybody reads
from benchmarks.measurement import STAGES, Measurement, Stopwatch
from benchmarks.workloads import batches, draw_labels, final_network, read_data, read_workload
from bergson.gradients import GradientProcessor
from bergson.hessians.eigenvectors import LambdaCollector, eigendecompose_owned
from bergson.hessians.kfac import CovarianceCollector
from torch import Tensor, nn

COVARIANCES, EIGENDECOMPOSITION, CORRECTED_EIGENVALUES, _ = STAGES


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure one run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--measurement", type=Path, required=True, help="JSON is written there")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--labels", choices=("sampled", "given"), default="sampled")
    parser.add_argument("--seed", type=int, default=0, help="of the drawn labels")
    given = parser.parse_args(arguments)
    if read_workload(given.folder).network != "mlp":
        parser.error("bergson's collectors take linear layers; only --workload mlp can be run")
    logging.disable(logging.INFO)
    torch.manual_seed(given.seed)
    inputs, labels = read_data(given.folder)["train"]
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
        watch.stop()
    Measurement(watch.costs, {}).write(given.measurement)


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
