"""Our stages on a language model's first stage, measured; `language_model_peers.py` runs it.

python -m benchmarks.gpt_ours DIR METHOD --measurement FILE --scores FILE
"""

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
from benchmarks.gpt_data import FirstStage, parser_of, read_first_stage, write_run
from benchmarks.measurement import Stopwatch
from benchmarks.pipeline_run import run_pipeline
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from sourcetrace.checkpoints.folder import CheckpointFolder
from sourcetrace.parameters import AttributionParameters
from sourcetrace.tasks import LanguageModelTask


class FirstStageTask(LanguageModelTask):
    """A model that the Trainer trained, and the mean token loss as measurement.

    Args:
        stage: What was trained, and what is asked of it.
        weights_of_blocks: Whether only the matrices of attention and MLP are attributed.
    """

    def __init__(self, stage: FirstStage, *, weights_of_blocks: bool = False) -> None:
        self._stage = stage
        self._weights_of_blocks = weights_of_blocks

    def build_model(self) -> nn.Module:
        """Return the untrained model."""
        config = AutoConfig.from_pretrained(self._stage.checkpoints[0])
        model: nn.Module = AutoModelForCausalLM.from_config(config)
        if self._weights_of_blocks:
            for name, parameter in model.named_parameters():
                parameter.requires_grad_(".h." in name and parameter.ndim > 1)
        return model

    def train_examples(self) -> Any:
        """Return the training sequences."""
        return list(self._stage.train_tokens)

    def query_examples(self) -> Any:
        """Return the queries."""
        return list(self._stage.query_tokens)

    def train_table(self) -> pl.DataFrame:
        """Return a number for every training sequence."""
        return _numbered(self._stage.train_tokens)

    def query_table(self) -> pl.DataFrame:
        """Return a number for every query."""
        return _numbered(self._stage.query_tokens)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure one run."""
    parser = parser_of(__doc__)
    parser.add_argument("method")
    parser.add_argument("--cache", choices=("memory", "disk", "recompute"), default="memory")
    parser.add_argument("--weights-of-blocks", action="store_true", help="as the peers do")
    given = parser.parse_args(arguments)
    logging.disable(logging.WARNING)
    stage = read_first_stage(given.folder)
    task = FirstStageTask(stage, weights_of_blocks=given.weights_of_blocks)
    task.build_model()  # imports what transformers puts off; the peers have a model by then
    watch = Stopwatch()
    with tempfile.TemporaryDirectory() as name:
        run = run_pipeline(
            task,
            CheckpointFolder(stage.checkpoints[0].parent),
            AttributionParameters(method=given.method, seed=given.seed),
            len(stage.checkpoints),
            batch_size=given.batch_size,
            cache=given.cache,
            cache_folder=Path(name),
            watch=watch,
        )
    write_run(given, run.scores, watch)


def _numbered(rows: Tensor) -> pl.DataFrame:
    return pl.DataFrame({"example_id": [str(index) for index in range(len(rows))]})


if __name__ == "__main__":
    main()
