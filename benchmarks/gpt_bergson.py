"""Bergson's own commands on a ground truth's language model; `language_model_peers.py` runs it.

    python -m benchmarks.gpt_bergson DIR METHOD --measurement FILE --scores FILE

Needs bergson, and of this repository only what needs torch alone. Its commands run as they are, in
this process, by their configuration, but for one thing: they refuse batches of more tokens than the
model has positions, here one sequence, and that limit is lifted.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from benchmarks.gpt_data import FirstStage, parser_of, read_first_stage, write_run
from benchmarks.measurement import Stopwatch
from bergson.approx_unrolling.pipeline import approx_unrolling_pipeline
from bergson.config import (
    ApproxUnrollingConfig,
    HessianConfig,
    IndexConfig,
    PreprocessConfig,
    ScoreConfig,
)
from bergson.config.config import DataConfig, HessianPipelineConfig, QuerySetConfig
from bergson.data import load_scores
from bergson.hessians.pipeline import hessian_pipeline
from bergson.utils import worker_utils
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from datasets import Dataset

_METHODS = ("source", "source_adam", "ekfac", "shampoo")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure one run."""
    parser = parser_of(__doc__)
    parser.add_argument("method", choices=_METHODS)
    parser.add_argument(
        "--reduction",
        choices=("mean", "sum"),
        default="sum",
        help="of a sequence's tokens; its own default is the sum, the training took the mean",
    )
    given = parser.parse_args(arguments)
    torch.manual_seed(given.seed)
    stage = read_first_stage(given.folder)
    watch = Stopwatch()
    with tempfile.TemporaryDirectory() as name:
        run = Path(name) / "run"
        index = _index(stage, given.folder, Path(name), given)
        queries = QuerySetConfig(dataset=_saved(stage.query_tokens, Path(name) / "queries"))
        watch.start("all")
        if given.method.startswith("source"):
            hessian = HessianConfig(method="kfac", ev_correction=True)
            unrolling = _unrolling(stage, given, queries)
            approx_unrolling_pipeline(index, hessian, unrolling)
        else:
            factors = "kfac" if given.method == "ekfac" else given.method
            hessian_pipeline(
                index,
                HessianConfig(method=factors, ev_correction=True),
                ScoreConfig(),
                PreprocessConfig(),
                HessianPipelineConfig(query=queries),
            )
        watch.stop()
        scores = torch.from_numpy(load_scores(run / "scores")[:].copy()).T
    # Its Source says what more weight does to the loss, its influence functions the opposite.
    write_run(given, -scores if given.method.startswith("source") else scores, watch)


def _index(stage: FirstStage, folder: Path, name: Path, given: Any) -> IndexConfig:
    length = stage.train_tokens.shape[1]
    worker_utils.max_tokens_for_model = lambda *_, **__: length * given.batch_size
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_file(str(folder / "tokenizer.json"))
    )
    tokenizer.save_pretrained(name / "tokenizer")
    return IndexConfig(
        run_path=str(name / "run"),
        model=str(stage.checkpoints[-1]),
        tokenizer=str(name / "tokenizer"),
        data=DataConfig(dataset=_saved(stage.train_tokens, name / "train")),
        token_batch_size=length * given.batch_size,
        loss_reduction=given.reduction,
        overwrite=True,
    )


def _saved(tokens: torch.Tensor, folder: Path) -> str:
    Dataset.from_dict({"input_ids": tokens.tolist()}).save_to_disk(str(folder))
    return str(folder)


def _unrolling(stage: FirstStage, given: Any, queries: QuerySetConfig) -> ApproxUnrollingConfig:
    rates = stage.segments()
    return ApproxUnrollingConfig(
        checkpoints=list(map(str, stage.checkpoints)),
        segments=len(rates),
        # From Trainer's log it would take the steps between two entries for steps at rate 0.
        lr_list=[rate for rate, _ in rates],
        step_size_list=[steps for _, steps in rates],
        use_adam_preconditioner=given.method == "source_adam",
        query=queries,
    )


if __name__ == "__main__":
    main()
