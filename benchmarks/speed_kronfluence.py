"""Kronfluence's stages on a workload's folder, measured; `speed.py` runs it.

    python -m benchmarks.speed_kronfluence FOLDER --measurement FILE [--scores FILE]

Needs kronfluence, and of this repository only what needs torch alone. One checkpoint, the last;
EK-FAC with its own settings but for the damping, 0.1 of a layer's mean eigenvalue as ours.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812, the name everybody reads
from benchmarks.measurement import STAGES, Measurement, Stopwatch
from benchmarks.workloads import draw_labels, final_network, margin, read_data
from kronfluence import Analyzer, FactorArguments, ScoreArguments, Task, prepare_model
from torch import Tensor, nn
from torch.utils.data import TensorDataset

COVARIANCES, EIGENDECOMPOSITION, CORRECTED_EIGENVALUES, SCORES = STAGES


class Classification(Task):
    """Cross-entropy, and the margin as measurement."""

    def compute_train_loss(self, batch: Any, model: nn.Module, sample: bool = False) -> Tensor:
        """Return the loss of a batch, summed."""
        inputs, labels = batch
        logits = model(inputs)
        return F.cross_entropy(logits, draw_labels(logits) if sample else labels, reduction="sum")

    def compute_measurement(self, batch: Any, model: nn.Module) -> Tensor:
        """Return the margin of a batch of queries, summed."""
        inputs, labels = batch
        return margin(model(inputs), labels).sum()


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
    torch.manual_seed(given.seed)
    data = read_data(given.folder)
    train, query = (TensorDataset(*data[side]) for side in ("train", "query"))
    task = Classification()
    model = prepare_model(final_network(given.folder), task)
    factors = FactorArguments(strategy="ekfac", use_empirical_fisher=given.labels == "given")
    watch = Stopwatch()
    size = given.batch_size
    with tempfile.TemporaryDirectory() as output:
        analyzer = Analyzer("speed", model, task, cpu=True, output_dir=output, disable_tqdm=True)
        watch.start(COVARIANCES)
        analyzer.fit_covariance_matrices(
            "ekfac", train, per_device_batch_size=size, factor_args=factors
        )
        watch.start(EIGENDECOMPOSITION)
        analyzer.perform_eigendecomposition("ekfac", factor_args=factors)
        watch.start(CORRECTED_EIGENVALUES)
        analyzer.fit_lambda_matrices(
            "ekfac", train, per_device_batch_size=size, factor_args=factors
        )
        watch.start(SCORES)
        analyzer.compute_pairwise_scores(
            "scores",
            "ekfac",
            query,
            train,
            per_device_query_batch_size=min(size, len(query)),
            per_device_train_batch_size=size,
            # None: the same rule for the damping as ours; its own default is 1e-8.
            score_args=ScoreArguments(damping_factor=None),
        )
        watch.stop()
        scores = analyzer.load_pairwise_scores("scores")["all_modules"]
    if given.scores is not None:
        # Theirs are products with an example's gradient, ours effects on a mean loss: 1/N apart.
        torch.save(scores / len(train), given.scores)
    Measurement(watch.costs, {}).write(given.measurement)


if __name__ == "__main__":
    main()
