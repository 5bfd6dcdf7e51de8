"""The demo's task: handwritten digits, as the demo's training run left them.

It reads the labels the training run was given; which of them are wrong, it cannot know.
"""

from typing import Any

import numpy as np
import polars as pl
import torch
from torch import nn
from torch.utils.data import TensorDataset

from sourcetrace.core.errors import InputError
from sourcetrace.tasks.classification import ClassificationTask

SIDE = 8
"""Height and width of a scan."""


class DigitsTask(ClassificationTask):
    """8×8 scans in ten classes, and a small convolutional network.

    Args:
        training_set: Parquet file of the training scans and their given labels.
        query_set: Parquet file of the scans that are explained.
    """

    def __init__(
        self,
        training_set: str = "data/01_raw/digits/training_set.parquet",
        query_set: str = "data/01_raw/digits/query_set.parquet",
    ) -> None:
        self._training = _read(training_set)
        self._queries = _read(query_set)

    def build_model(self) -> nn.Module:
        """Return the network, untrained."""
        return digits_network()

    def train_examples(self) -> TensorDataset:
        """Return scans [1, 8, 8] with their given labels."""
        return scans(self._training)

    def query_examples(self) -> TensorDataset:
        """Return held-out scans with their labels."""
        return scans(self._queries)

    def train_table(self) -> pl.DataFrame:
        """Return ids and given labels."""
        return self._training.select("example_id", "label")

    def query_table(self) -> pl.DataFrame:
        """Return ids and labels."""
        return self._queries.select("example_id", "label")

    def picture(self, index: int) -> "np.ndarray[Any, Any]":
        """Return a training scan, dark ink on white, [8, 8]."""
        pixels = np.asarray(self._training["pixels"][index]).reshape(SIDE, SIDE)
        return 1 - pixels


def digits_network() -> nn.Module:
    """Return two convolutions and two linear layers, 26,000 parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 16, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 24, kernel_size=3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(24 * 16, 48),
        nn.ReLU(),
        nn.Linear(48, 10),
    )


def scans(table: pl.DataFrame) -> TensorDataset:
    """Return the scans of a table as tensors, [1, 8, 8] and a label each."""
    pixels = torch.from_numpy(table["pixels"].to_numpy().copy())
    return TensorDataset(pixels.reshape(-1, 1, SIDE, SIDE), torch.tensor(table["label"].to_list()))


def _read(path: str) -> pl.DataFrame:
    try:
        return pl.read_parquet(path)
    except FileNotFoundError as error:
        raise InputError(
            f"There is no file {path!r}. The demo's audit needs the demo's training run: "
            "`kedro run --pipelines demo_training` writes it, plain `kedro run` does both."
        ) from error
