"""An audit's numerical stages on a whole GPT-2: `python -m benchmarks.language_model`.

Writes folders as the Trainer's with random weights and AdamW's state behind some real steps, once,
then runs the pipeline's own nodes on them in a process of its own: ingest, set-up, extraction,
fitting, scoring, each result through its file as in a Kedro run. Prints seconds, tokens a second
and peak memory by stage.
"""

import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import polars as pl
import torch
import torch.nn.functional as F  # noqa: N812, the name everybody reads
from benchmarks.machine import describe_machine
from benchmarks.measurement import Stopwatch
from benchmarks.processes import REPOSITORY, THREAD_VARIABLES
from torch import Tensor, nn
from torch.utils.data import TensorDataset
from transformers import GPT2Config, GPT2LMHeadModel

from sourcetrace.checkpoints.folder import CheckpointFolder
from sourcetrace.core.model.objective import signs
from sourcetrace.datasets.gradient_cache import GradientCache
from sourcetrace.datasets.layers import CurvatureDataset
from sourcetrace.parameters import (
    AttributionParameters,
    GradientParameters,
    SegmentParameters,
)
from sourcetrace.pipelines.checkpoint_ingest.nodes import ingest_checkpoints
from sourcetrace.pipelines.ekfac_fitting.nodes import fit_curvature
from sourcetrace.pipelines.gradient_extraction.nodes import extract_gradients
from sourcetrace.pipelines.set_up.audit_setup import AuditSetup
from sourcetrace.pipelines.set_up.nodes import set_up_audit
from sourcetrace.pipelines.shared.inputs import Ingested
from sourcetrace.pipelines.source_scoring.work import score
from sourcetrace.tasks import TaskBase

_TRAINED = 4
"""Sequences of a training step."""


class _GptTask(TaskBase):
    """The mean loss of a sequence's tokens; random tokens stand for text."""

    measurement_higher_is_better = False

    def __init__(self, asked: argparse.Namespace) -> None:
        self._shape = GPT2Config(
            vocab_size=asked.vocabulary,
            n_layer=asked.blocks,
            n_embd=asked.width,
            n_head=asked.width // 64,
            use_cache=False,
        )
        generator = torch.Generator().manual_seed(0)
        drawn = torch.randint(
            asked.vocabulary, (asked.examples + asked.queries, asked.tokens), generator=generator
        )
        self._train, self._queries = drawn[: asked.examples], drawn[asked.examples :]

    def build_model(self) -> nn.Module:
        torch.manual_seed(0)
        return GPT2LMHeadModel(self._shape)

    def train_examples(self) -> Any:
        return TensorDataset(self._train)

    def query_examples(self) -> Any:
        return TensorDataset(self._queries)

    def train_table(self) -> pl.DataFrame:
        return _numbered(len(self._train))

    def query_table(self) -> pl.DataFrame:
        return _numbered(len(self._queries))

    def forward(self, model: nn.Module, batch: Any) -> Tensor:
        logits: Tensor = model(batch[0]).logits[:, :-1]
        return logits

    def train_loss(self, outputs: Tensor, batch: Any) -> Tensor:
        each = F.cross_entropy(outputs.mT, batch[0][:, 1:], reduction="none")
        return each.mean(1)

    def sampled_loss(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        chances = outputs.detach().softmax(-1)
        noise = chances.sqrt() * signs(generator, outputs.shape, like=chances)
        noise -= chances * noise.sum(-1, keepdim=True)
        return (outputs * noise).sum((1, 2)) / outputs.shape[1] ** 0.5

    def measurement(self, outputs: Tensor, batch: Any) -> Tensor:
        return self.train_loss(outputs, batch)


def _numbered(count: int) -> pl.DataFrame:
    return pl.DataFrame({"example_id": [str(number) for number in range(count)]})


def main(arguments: Sequence[str] | None = None) -> None:
    """Prepare and measure, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--queries", type=int, default=4)
    parser.add_argument("--blocks", type=int, default=12)
    parser.add_argument("--width", type=int, default=768, help="of the residual stream")
    parser.add_argument("--vocabulary", type=int, default=50257)
    parser.add_argument("--last", choices=("extraction", "scoring"), default="scoring")
    parser.add_argument("--checkpoints", type=int, default=2)
    parser.add_argument("--segments", type=int, default=1)
    parser.add_argument("--memory", type=float, default=4.0, help="gradients.memory_gib")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where checkpoints stay, to be used again")
    parser.add_argument("--step", choices=("train", "audit"), help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    if asked.step == "train":
        _train(asked)
    elif asked.step == "audit":
        _audit(asked)
    else:
        print(describe_machine())
        with tempfile.TemporaryDirectory() as temporary:
            given = list(sys.argv[1:] if arguments is None else arguments)
            here = asked.folder or Path(temporary)
            given += [] if asked.folder else ["--folder", temporary]
            steps = [] if (here / "checkpoints").is_dir() else ["train"]
            environment = os.environ | dict.fromkeys(THREAD_VARIABLES, str(asked.threads))
            for step in (*steps, "audit"):
                command = [sys.executable, "-m", "benchmarks.language_model", *given]
                subprocess.run(
                    [*command, "--step", step], check=True, cwd=REPOSITORY, env=environment
                )


def _train(asked: argparse.Namespace) -> None:
    """Write checkpoints as the Trainer does, a step of AdamW between two of them."""
    task = _GptTask(asked)
    model = task.build_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    for step in range(1, asked.checkpoints + 1):
        start = (step - 1) * _TRAINED % asked.examples
        batch = task.train_examples()[start : start + _TRAINED]
        optimizer.zero_grad()
        task.train_loss(task.forward(model, batch), batch).mean().backward()
        optimizer.step()
        folder = asked.folder / "checkpoints" / f"checkpoint-{step}"
        model.save_pretrained(folder)
        torch.save(optimizer.state_dict(), folder / "optimizer.pt")
        log = [{"step": one, "learning_rate": 1e-3} for one in range(1, step + 1)]
        state = {"global_step": step, "max_steps": asked.checkpoints, "log_history": log}
        (folder / "trainer_state.json").write_text(json.dumps(state))


def _audit(asked: argparse.Namespace) -> None:
    """Run the nodes, and print what each took."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("sourcetrace.pipelines.shared.memory").setLevel(logging.INFO)
    watch, task = Stopwatch(), _GptTask(asked)
    checkpoints = CheckpointFolder(asked.folder / "checkpoints")
    attribution = AttributionParameters(method="source")
    gradients = GradientParameters(memory_gib=asked.memory)
    watch.start("ingest")
    found = ingest_checkpoints(
        checkpoints, task, SegmentParameters(count=asked.segments), attribution
    )
    watch.start("set-up")
    setup = set_up_audit(
        Ingested(task, checkpoints, found[1], found[3], found[4], "", identity=uuid4().hex),
        GradientCache(asked.folder / "gradients"),
        gradients,
        attribution,
    )
    watch.start("extraction")
    _, signals, *_ = extract_gradients(setup, gradients)
    if asked.last == "scoring":
        _fit_and_score(setup, signals, asked.folder, watch)
    watch.stop()
    visited = asked.examples * asked.tokens * asked.checkpoints
    for stage, cost in watch.costs.items():
        print(
            f"{stage:12} {cost.wall:8.1f} s wall {cost.cpu:8.1f} s CPU "
            f"{visited / cost.wall:8.0f} tokens/s {cost.peak_bytes / 1e9:6.2f} GB at most"
        )
    print(f"batches of {setup.engine.batch_size}")


def _fit_and_score(
    setup: AuditSetup, signals: pl.DataFrame, folder: Path, watch: Stopwatch
) -> None:
    watch.start("fitting")
    curvature = CurvatureDataset(str(folder / "curvature.safetensors"))
    curvature.save(fit_curvature(setup, signals)[0])
    watch.start("scoring")
    files = [files[0].path for files in score(setup).parts]
    watch.stop()
    scores = pl.read_parquet(files)["scores"].to_numpy()
    print(f"RMS score {(scores**2).mean() ** 0.5:.3g}")


if __name__ == "__main__":
    main()
