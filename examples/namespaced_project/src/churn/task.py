"""What the audit has to know of the model: see docs/guide/your_model.md of Sourcetrace."""

from collections.abc import Sequence

import polars as pl
import torch
from torch import nn
from torch.utils.data import TensorDataset

from sourcetrace.tasks import ClassificationTask, SGDRecipe, train_with_sgd

FEATURES = ["months", "calls", "spend", "complaints"]


class ChurnTask(ClassificationTask):
    """Whether a customer leaves, from four numbers."""

    label_names = ("stays", "leaves")

    def __init__(self, table: str = "data/03_primary/customers.parquet", epochs: int = 20) -> None:
        self.rows = pl.read_parquet(table)
        self.recipe = SGDRecipe(epochs=epochs, batch_size=16, learning_rate=0.1, momentum=0.9)

    def build_model(self) -> nn.Module:
        """Return the untrained network."""
        return nn.Sequential(nn.Linear(len(FEATURES), 16), nn.ReLU(), nn.Linear(16, 2))

    def train_examples(self) -> TensorDataset:
        """Return the customers that the model was trained on."""
        return _tensors(self._split("train"))

    def query_examples(self) -> TensorDataset:
        """Return the customers whose predictions are to be explained."""
        return _tensors(self._split("query"))

    def train_table(self) -> pl.DataFrame:
        """Return a row a training example."""
        return _described(self._split("train"))

    def query_table(self) -> pl.DataFrame:
        """Return a row a query."""
        return _described(self._split("query"))

    def train(self, indices: Sequence[int], *, seed: int) -> nn.Module:
        """Train on some of the examples, so that the audit can be verified."""
        return train_with_sgd(self, indices, self.recipe, seed=seed)

    def _split(self, name: str) -> pl.DataFrame:
        return self.rows.filter(pl.col("split") == name)


def _tensors(rows: pl.DataFrame) -> TensorDataset:
    inputs = torch.tensor(rows.select(FEATURES).to_numpy(), dtype=torch.float32)
    return TensorDataset(inputs, torch.tensor(rows["left"].to_list()))


def _described(rows: pl.DataFrame) -> pl.DataFrame:
    names = pl.col("left").replace_strict({0: "stays", 1: "leaves"}, return_dtype=pl.String)
    return rows.select(pl.col("customer").alias("example_id"), names.alias("label"), *FEATURES)
