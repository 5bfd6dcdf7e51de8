"""A task small enough to be retrained many times, whose trainings can be watched and disturbed."""

import os
import time
from pathlib import Path

import numpy as np
import polars as pl
import torch
from torch import nn
from torch.utils.data import TensorDataset

from sourcetrace.datasets.gradient_cache import GradientCache
from sourcetrace.datasets.score_files import ScoreFiles
from sourcetrace.parameters import LaunchParameters, TaskParameters, VerificationParameters
from sourcetrace.pipelines.shared.inputs import Ingested
from sourcetrace.pipelines.verification.nodes import retrain_groups
from sourcetrace.tasks import ClassificationTask
from sourcetrace.work.ledger import Ledger

EXAMPLES, QUERIES = 20, 6


class Biases(nn.Module):
    """Logits that depend on the classes alone."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(2))

    def forward(self, inputs):
        return self.logits + inputs[:, :2]


class CountingTask(ClassificationTask):
    """Trains to the logarithm of the class counts, and notes in a folder that it did.

    Args:
        folder: Where a file is written for each training begun, with the process's number in its
            name, of the names of the environment's variables.
        pause: Seconds that a training takes.
        trouble: "raise" or "die" in a training that lacks the first example.
        together: Whether all trainings but the first wait until a second process trains too.
    """

    def __init__(
        self, folder: str, pause: float = 0.0, trouble: str = "", together: bool = False
    ) -> None:
        self.folder, self.pause, self.trouble = Path(folder), pause, trouble
        self.together = together

    def build_model(self):
        return Biases()

    def train_examples(self):
        return TensorDataset(torch.zeros(EXAMPLES, 2), torch.arange(EXAMPLES) % 2)

    def query_examples(self):
        shift = torch.linspace(-1, 1, QUERIES)
        return TensorDataset(torch.stack([shift, -shift], 1), torch.arange(QUERIES) % 2)

    def train_table(self):
        return table("example", EXAMPLES).with_columns(
            stage=pl.lit(["train"], dtype=pl.List(pl.String))
        )

    def query_table(self):
        return table("query", QUERIES)

    def train(self, indices, *, seed):
        name = f"{time.monotonic_ns()}-{os.getpid()}"
        (self.folder / name).write_text("\n".join(os.environ))
        if self.trouble and 0 not in indices:
            if self.trouble == "die":
                os._exit(9)
            raise RuntimeError("no first example")
        time.sleep(self.pause)
        begun = [file.name.split("-")[1] for file in self.folder.iterdir()]
        while self.together and len(begun) > 1 and len(set(begun)) == 1:
            time.sleep(0.01)
            begun = [file.name.split("-")[1] for file in self.folder.iterdir()]
        model = Biases()
        counts = torch.bincount(torch.tensor(indices) % 2, minlength=2)
        with torch.no_grad():
            model.logits.copy_((counts + 1).log() + 0.01 * seed)
        return model


def table(prefix, count):
    return pl.DataFrame(
        {
            "example_id": [f"{prefix}-{i}" for i in range(count)],
            "label": [str(i % 2) for i in range(count)],
        }
    )


def exact_scores():
    """Return scores [EXAMPLES, QUERIES] with the sign of what a removal does."""
    same = np.arange(EXAMPLES)[:, None] % 2 == np.arange(QUERIES)[None] % 2
    # Unequal by example, so that there is an order among helpers.
    size = 1 + 0.001 * np.arange(EXAMPLES)[:, None]
    return np.where(same, -0.1, 0.1).astype(np.float32) * size.astype(np.float32)


def write_scores(folder, scores):
    """Write scores in two files and return them as the pipeline reads them."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, rows in enumerate((slice(0, 12), slice(12, None))):
        ids = [f"example-{i}" for i in range(len(scores))][rows]
        column = pl.Series("scores", scores[rows], dtype=pl.Array(pl.Float32, scores.shape[1]))
        pl.DataFrame({"example_id": ids, "scores": column}).write_parquet(
            folder / f"part-{number:06d}.parquet"
        )
    return ScoreFiles(folder)


def signals(task):
    """Return what an audit knows of the queries, from a model trained on everything."""
    model = task.train(range(EXAMPLES), seed=0)
    batch = task.query_examples().tensors
    outputs = model(batch[0])
    described = task.describe(outputs, batch)
    return pl.DataFrame(
        {
            "example_id": task.query_table()["example_id"],
            "measurement": task.measurement(outputs, batch).tolist(),
            **described,
        }
    )


def ingested_of(task, **changes):
    """Return a task's inputs as the ingest describes them."""
    given = {"data": "its data", "identity": "", **changes}
    return Ingested(task, None, None, task.train_table(), task.query_table(), **given)


def retrain(root, plan, *, workers=2, seeds=1, **arguments):
    """Retrain a plan's groups; trainings are noted in root/trained, outcomes kept in root/kept."""
    (root / "trained").mkdir(exist_ok=True)
    arguments = {"folder": str(root / "trained"), **arguments}
    task = CountingTask(**arguments)
    return retrain_groups(
        ingested=ingested_of(task),
        task=TaskParameters.model_validate(
            {"class": "tests.verifiable.CountingTask", "arguments": arguments}
        ),
        verification_plan=plan,
        retrained_outcomes=Ledger(root / "kept"),
        gradient_cache=GradientCache(root / "cache"),
        launch=LaunchParameters(),
        verification=VerificationParameters(workers=workers, seeds=seeds),
    )


def plan_of(*removed):
    """Return a plan with a group for every tuple of removed examples."""
    return pl.DataFrame(
        {
            "group": [f"group-{i}" for i in range(len(removed))],
            "kind": ["all" if not numbers else "subset" for numbers in removed],
            "query": [None] * len(removed),
            "removed": [list(numbers) for numbers in removed],
            "scores_digest": ["0"] * len(removed),
        },
        schema_overrides={"query": pl.Int64, "removed": pl.List(pl.Int32)},
    )


def trained(root):
    """Return the numbers of the processes, one for each training begun."""
    return [int(file.name.split("-")[1]) for file in (root / "trained").glob("*")]
