"""The demo's task: handwritten digits, as the demo's training run left them.

It reads the labels the training run was given; which of them are wrong, it cannot know.
"""

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import nn
from torch.utils.data import TensorDataset

from sourcetrace.errors import InputError
from sourcetrace.tasks.classification import ClassificationTask
from sourcetrace.tasks.training import SGDRecipe, train_with_sgd

_SIDE = 8
"""Height and width of a scan."""


class DigitsTask(ClassificationTask):
    """8×8 scans in ten classes, and a small convolutional network.

    Args:
        training_set: Table of the training scans and their given labels, or its parquet file.
        query_set: Of the scans that are explained.
        recipe: JSON file that says how the network was trained.
    """

    def __init__(
        self,
        training_set: str | pl.DataFrame = "data/01_raw/digits/training_set.parquet",
        query_set: str | pl.DataFrame = "data/01_raw/digits/query_set.parquet",
        recipe: str = "data/01_raw/digits/recipe.json",
    ) -> None:
        self._training, self._queries = _read(training_set), _read(query_set)
        self._recipe = Path(recipe)

    def build_model(self) -> nn.Module:
        """Return two convolutions and two linear layers, 22,610 parameters, untrained."""
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

    def train_examples(self) -> TensorDataset:
        """Return scans [1, 8, 8] with their given labels."""
        return _scans(self._training)

    def query_examples(self) -> TensorDataset:
        """Return held-out scans with their labels."""
        return _scans(self._queries)

    def train_table(self) -> pl.DataFrame:
        """Return ids and given labels."""
        return self._training.select("example_id", "label")

    def query_table(self) -> pl.DataFrame:
        """Return ids and labels."""
        return self._queries.select("example_id", "label")

    def queries_of(self, source: Any) -> tuple[TensorDataset, pl.DataFrame]:
        """Return further scans, of a parquet file with the columns of the query set."""
        try:
            table = pl.read_parquet(source).select("example_id", "pixels", "label")
        except (OSError, TypeError, pl.exceptions.PolarsError) as error:
            raise InputError(
                f"{source} holds no scans: expected a parquet file of example_id, pixels [64] and "
                "label, as data/01_raw/digits/query_set.parquet is. Name such a file with --file."
            ) from error
        return _scans(table), table.drop("pixels")

    def picture(self, index: int) -> "np.ndarray[Any, Any]":
        """Return a training scan, dark ink on white, [8, 8]."""
        return _drawn(self._training, index)

    def query_picture(self, index: int) -> "np.ndarray[Any, Any]":
        """Return a query's scan likewise."""
        return _drawn(self._queries, index)

    def relabelled(self, labels: Mapping[int, str]) -> "DigitsTask":
        """Return the task with other labels of some training scans."""
        given = self._training["label"].to_list()
        for number, label in labels.items():
            given[number] = int(label)
        other = copy.copy(self)
        other._training = self._training.with_columns(label=pl.Series(given))
        return other

    @property
    def recipe(self) -> dict[str, Any]:
        """How `train` trains; another recipe is another retraining."""
        try:
            recipe: dict[str, Any] = json.loads(self._recipe.read_text())
        except FileNotFoundError as error:
            raise _missing(str(self._recipe)) from error
        return recipe

    def train(self, indices: Sequence[int], *, seed: int) -> nn.Module:
        """Train as the demo did, on some of the scans; its own seed and all scans repeat it."""
        return train_with_sgd(self, indices, SGDRecipe(**self.recipe), seed=seed)


def _drawn(table: pl.DataFrame, index: int) -> "np.ndarray[Any, Any]":
    return 1 - np.asarray(table["pixels"][index]).reshape(_SIDE, _SIDE)


def _scans(table: pl.DataFrame) -> TensorDataset:
    """Return the scans of a table as tensors, [1, 8, 8] and a label each."""
    pixels = torch.from_numpy(table["pixels"].to_numpy().copy())
    return TensorDataset(
        pixels.reshape(-1, 1, _SIDE, _SIDE), torch.tensor(table["label"].to_list())
    )


def _read(given: str | pl.DataFrame) -> pl.DataFrame:
    if isinstance(given, pl.DataFrame):
        return given
    try:
        return pl.read_parquet(given)
    except FileNotFoundError as error:
        raise _missing(given) from error


def _missing(path: str) -> InputError:
    return InputError(
        f"There is no file {path!r}. The demo's audit needs the demo's training run: "
        "`kedro run --pipelines demo_training` writes it, plain `kedro run` does both."
    )
