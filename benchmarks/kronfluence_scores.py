"""Pairwise influence scores by kronfluence; `kronfluence_agreement.py` runs it.

    python -m benchmarks.kronfluence_scores FOLDER LINEAR_OR_CONVOLUTION DAMPING

FOLDER holds case.pt (state, train, query); scores.pt [Q, N] is written there. Needs kronfluence and
of this repository only the networks.
"""

import sys
from pathlib import Path

import torch
from benchmarks.small_networks import build_model
from kronfluence import Analyzer, FactorArguments, ScoreArguments, Task, prepare_model
from torch import Tensor, nn
from torch.utils.data import TensorDataset


class SquaredError(Task):
    """Half the squared error, summed over the batch, as loss and as measurement."""

    def compute_train_loss(self, batch, model: nn.Module, sample: bool = False) -> Tensor:
        """Return the loss of a batch, against the given labels always."""
        inputs, targets = batch
        return 0.5 * (model(inputs).squeeze(1) - targets).square().sum()

    def compute_measurement(self, batch, model: nn.Module) -> Tensor:
        """Return the same of a batch of queries."""
        return self.compute_train_loss(batch, model)


def main(folder: Path, kind: str, damping: float) -> None:
    """Fit the factors with the empirical Fisher matrix and score every pair."""
    case = torch.load(folder / "case.pt", weights_only=True)
    model = build_model(kind)
    model.load_state_dict(case["state"])
    task = SquaredError()
    analyzer = Analyzer(
        "agreement",
        prepare_model(model, task),
        task,
        cpu=True,
        output_dir=str(folder / "kronfluence"),
        disable_tqdm=True,
    )
    train, query = (TensorDataset(*case[side]) for side in ("train", "query"))
    exact = torch.float64
    factors = FactorArguments(
        strategy="ekfac",
        use_empirical_fisher=True,
        activation_covariance_dtype=exact,
        gradient_covariance_dtype=exact,
        per_sample_gradient_dtype=exact,
        lambda_dtype=exact,
    )
    analyzer.fit_all_factors("ekfac", train, per_device_batch_size=16, factor_args=factors)
    scores = ScoreArguments(
        damping_factor=damping,
        score_dtype=exact,
        per_sample_gradient_dtype=exact,
        precondition_dtype=exact,
        query_gradient_svd_dtype=exact,
    )
    analyzer.compute_pairwise_scores(
        "scores",
        "ekfac",
        query,
        train,
        per_device_query_batch_size=8,
        per_device_train_batch_size=16,
        score_args=scores,
    )
    torch.save(analyzer.load_pairwise_scores("scores")["all_modules"], folder / "scores.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]))
