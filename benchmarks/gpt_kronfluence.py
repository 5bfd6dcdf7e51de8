"""Kronfluence on a ground truth's language model; `language_model_peers.py` runs it.

    python -m benchmarks.gpt_kronfluence DIR --measurement FILE --scores FILE

Needs kronfluence, and of this repository only what needs torch alone. EK-FAC of the last checkpoint
with its own settings, of the linear layers of attention and MLP as in its example of a language
model; GPT-2's `Conv1D`, which it does not know, becomes an `nn.Linear` of the same weights.
"""

import tempfile
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812, the name everybody reads
from benchmarks.gpt_data import parser_of, read_first_stage, write_run
from benchmarks.measurement import Stopwatch
from benchmarks.workloads import draw_labels
from kronfluence import Analyzer, FactorArguments, ScoreArguments, Task, prepare_model
from torch import Tensor, nn
from torch.utils.data import TensorDataset
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D


class NextToken(Task):
    """Cross-entropy of the next tokens, summed, as loss and as measurement.

    Args:
        modules: Names of those that are scored.
    """

    def __init__(self, modules: list[str]) -> None:
        self._modules = modules

    def compute_train_loss(self, batch: Any, model: nn.Module, sample: bool = False) -> Tensor:
        """Return the loss of a batch, of its own tokens or of drawn ones."""
        logits = model(input_ids=batch[0]).logits[:, :-1].flatten(0, 1)
        targets = draw_labels(logits) if sample else batch[0][:, 1:].flatten()
        return F.cross_entropy(logits, targets, reduction="sum")

    def compute_measurement(self, batch: Any, model: nn.Module) -> Tensor:
        """Return the loss of a batch of queries."""
        return self.compute_train_loss(batch, model)

    def get_influence_tracked_modules(self) -> list[str]:
        """Return the modules that are scored."""
        return self._modules


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure one run."""
    parser = parser_of(__doc__)
    parser.add_argument("--damping", type=float, help="0.1 of a layer's mean eigenvalue by default")
    given = parser.parse_args(arguments)
    torch.manual_seed(given.seed)
    stage = read_first_stage(given.folder)
    train, query = TensorDataset(stage.train_tokens), TensorDataset(stage.query_tokens)
    model = AutoModelForCausalLM.from_pretrained(stage.checkpoints[-1])
    task = NextToken(_with_linear_layers(model))
    factors, size = FactorArguments(strategy="ekfac"), given.batch_size
    watch = Stopwatch()
    watch.start("all")
    with tempfile.TemporaryDirectory() as output:
        analyzer = Analyzer(
            "peers",
            prepare_model(model, task),
            task,
            cpu=True,
            output_dir=output,
            disable_tqdm=True,
        )
        analyzer.fit_all_factors("ekfac", train, per_device_batch_size=size, factor_args=factors)
        analyzer.compute_pairwise_scores(
            "scores",
            "ekfac",
            query,
            train,
            per_device_query_batch_size=len(query),
            per_device_train_batch_size=size,
            score_args=ScoreArguments(damping_factor=given.damping),
        )
        watch.stop()
        scores = analyzer.load_pairwise_scores("scores")["all_modules"]
    write_run(given, scores, watch)


def _with_linear_layers(model: nn.Module) -> list[str]:
    """Put linear layers in the place of `Conv1D`, and return their names."""
    found = [name for name, module in model.named_modules() if isinstance(module, Conv1D)]
    for name in found:
        old = model.get_submodule(name)
        new = nn.Linear(*old.weight.shape)
        new.weight.data, new.bias.data = old.weight.data.T.contiguous(), old.bias.data
        model.set_submodule(name, new)
    return found


if __name__ == "__main__":
    main()
