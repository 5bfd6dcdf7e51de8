"""The task: the one thing a user writes.

A task says how to build the model, which examples trained it, which examples are explained,
and the losses. It never says where checkpoints are or how scores are computed.
"""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import polars as pl
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, default_collate


@runtime_checkable
class Task(Protocol):
    """A model, its data and its losses.

    Batches are what `collate` makes of items; losses return one value an example, [B].
    A task may also have `train(indices, *, seed) -> nn.Module`, which retrains the model on the
    training examples with these numbers, as it was trained (`train_with_sgd` may help), and
    `recipe`, a JSON value of what `train` reads from elsewhere; `relabelled(labels) -> Task`, the
    same task with other labels, as its table writes them, of the training examples with these
    numbers; `holdout_examples()` and `holdout_table()`, as of the queries, of further examples
    that no audit reads and on which cleaning is measured; `describe(outputs, batch)`, whose
    values the reports show (see `ClassificationTask`); `picture(index) -> array`, a picture
    of a training example ([height, width] or [height, width, 3], values 0 to 1), and
    `query_picture(index)`, one of a query; and
    `inputs_of(item)`, the part of an item that stays when its label is corrected, by which later
    audits know it again (default: the first of a pair, a mapping without its label); `notes`,
    lines about the data that the run logs and the preflight shows; `model_digest()`, a text that is
    another where `build_model()` reads other files, such as weights below adapters; and for
    `sourcetrace explain` `tokens_of(item)`, the texts of an item's tokens, as many as the model is
    given, `queries_of(source)`, items and a query table of a path, or of a mapping with `text`,
    `completion` and `label` as they were typed, and `measurement_name`.
    """

    measurement_higher_is_better: bool

    def build_model(self) -> nn.Module:
        """Return the untrained model; checkpoints are loaded into it."""

    def train_examples(self) -> Dataset[Any]:
        """Return the training data, map-style."""

    def query_examples(self) -> Dataset[Any]:
        """Return the examples whose behaviour is explained, map-style."""

    def train_table(self) -> pl.DataFrame:
        """Return one row a training example, same order: example_id, label?, stage?, any more.

        `stage` is a name, or a list of names where examples were used in several stages.
        """

    def query_table(self) -> pl.DataFrame:
        """Return one row a query example, same order: example_id, label?, any more."""

    def collate(self, items: Sequence[Any]) -> Any:
        """Join items of either data set to a batch."""

    def forward(self, model: nn.Module, batch: Any) -> Any:
        """Return the model's outputs for a batch."""

    def train_loss(self, outputs: Any, batch: Any) -> Tensor:
        """Return the loss whose batch mean the optimiser minimised, [B]."""

    def sampled_loss(self, outputs: Any, generator: torch.Generator, batch: Any) -> Tensor:
        """Return a loss whose random gradient has the Gauss–Newton matrix of `train_loss`, [B].

        That is the second moment of its gradient at the outputs; see the same method of
        `core.model.objective.Objective`. The argument `batch` may be left out.
        """

    def measurement(self, outputs: Any, batch: Any) -> Tensor:
        """Return the scalar of each example that is explained, [B]."""


class TaskBase:
    """Defaults for batches of `(inputs, targets)` and a model called with the inputs."""

    measurement_higher_is_better = True

    def collate(self, items: Sequence[Any]) -> Any:
        """Join items with torch's default."""
        return default_collate(list(items))

    def forward(self, model: nn.Module, batch: Any) -> Any:
        """Return `model(inputs)`."""
        return model(batch[0])
