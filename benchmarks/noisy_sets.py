"""Small public sets in which some labels are wrong, and the networks that are trained on them."""

import gzip
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from csv import DictReader
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from benchmarks.small_networks import mlp
from sklearn.feature_extraction.text import TfidfVectorizer
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from sourcetrace.parameters import DemoParameters
from sourcetrace.pipelines.demo_training.nodes import plant_label_errors
from sourcetrace.tasks import ClassificationTask, RegressionTask, SGDRecipe
from sourcetrace.tasks.digits import DigitsTask

_EXAMPLES, _SENTENCES, _QUERIES, _WORDS = 2000, 4000, 300, 2000
_DIGITS = 360


@dataclass(frozen=True)
class NoisySet:
    """A set with wrong labels, one seed of it.

    Attributes:
        task: What is audited; it knows the given labels alone.
        recipe: How its network is trained.
        wrong: Whether the given label is not the true one, [N].
        true: True labels, [N].
        test: Examples with true labels that no audit reads.
    """

    task: Any
    recipe: SGDRecipe
    wrong: np.ndarray[Any, Any]
    true: np.ndarray[Any, Any]
    test: TensorDataset

    @property
    def given(self) -> Tensor:
        """Given labels, [N]."""
        labels: Tensor = self.task.train_examples().tensors[1]
        return labels


class _Tensors:
    """A task of tensors."""

    def __init__(self, train: Sequence[Tensor], queries: Sequence[Tensor], widths: Sequence[int]):
        self._train, self._queries = TensorDataset(*train), TensorDataset(*queries)
        self._widths = widths

    def build_model(self) -> nn.Module:
        return mlp(self._widths)

    def relabelled(self, labels: Mapping[int, str]) -> Any:
        inputs, given = self._train.tensors
        given = given.clone()
        for number, label in labels.items():
            given[number] = float(label)
        other = copy(self)
        other._train = TensorDataset(inputs, given)
        return other

    def train_examples(self) -> Any:
        return self._train

    def query_examples(self) -> Any:
        return self._queries

    def train_table(self) -> pl.DataFrame:
        return _labelled(self._train)

    def query_table(self) -> pl.DataFrame:
        return _labelled(self._queries)


class ClassTensors(_Tensors, ClassificationTask):
    """A classification of tensors."""


class TargetTensors(_Tensors, RegressionTask):
    """A regression of tensors."""


def digits(data: Path, seed: int, share: float = 0.08, *, held_out: float = 0.2) -> NoisySet:
    """Return the demo's set: scikit-learn's digits, the labels exchanged as the demo does it.

    Of what is held out, the first 360 are queries, as many as the demo has.
    """
    demo = DemoParameters(seed=seed, error_share=share, query_share=held_out)
    training, rest, planted = plant_label_errors(demo)
    queries, test = rest.head(_DIGITS), rest.tail(-_DIGITS)
    true = dict(planted.select("example_id", "true_label").iter_rows())
    pairs = list(training.select("example_id", "label").iter_rows())
    recipe = SGDRecipe(demo.epochs, demo.batch_size, demo.learning_rate, 0.9, demo.weight_decay)
    return NoisySet(
        DigitsTask(training, queries),
        recipe,
        np.array([name in true for name, _ in pairs]),
        np.array([true.get(name, label) for name, label in pairs]),
        DigitsTask(training, test).query_examples(),
    )


def mnist(data: Path, seed: int, share: float, *, paired: bool = False) -> NoisySet:
    """Return 2,000 images and an MLP.

    Args:
        data: Folder with mnist_t10k_images.idx3.gz and mnist_t10k_labels.idx1.gz.
        seed: Of the images taken and the labels exchanged.
        share: Of labels exchanged.
        paired: Whether a class is always taken for the next one, not for any.
    """
    images = _read_idx(data / "mnist_t10k_images.idx3.gz").reshape(-1, 784) / 255
    labels = _read_idx(data / "mnist_t10k_labels.idx1.gz").astype(np.int64)
    random = np.random.default_rng(seed)
    train, queries, test = _split(random, len(labels))
    wrong = _drawn(random, share)
    given = labels[train].copy()
    steps = 1 if paired else random.integers(1, 10, wrong.sum())
    given[wrong] = (given[wrong] + steps) % 10
    task = ClassTensors(
        (_floats(images[train]), torch.tensor(given)),
        (_floats(images[queries]), torch.tensor(labels[queries])),
        (784, 64, 10),
    )
    held_out = TensorDataset(_floats(images[test]), torch.tensor(labels[test]))
    return NoisySet(task, SGDRecipe(12, 32, 0.03, 0.9), wrong, labels[train], held_out)


def parkinsons(data: Path, seed: int, share: float = 0.1) -> NoisySet:
    """Return 2,000 recordings and an MLP; a wrong target is another recording's.

    Args:
        data: Folder with parkinsons_updrs.csv.
        seed: Of the recordings taken and the targets exchanged.
        share: Of targets exchanged.
    """
    with (data / "parkinsons_updrs.csv").open() as file:
        rows = list(DictReader(file))
    targets = np.array([float(row["total_UPDRS"]) for row in rows])
    left_out = {"subject#", "motor_UPDRS", "total_UPDRS"}
    columns = [name for name in rows[0] if name not in left_out]
    features = np.array([[float(row[name]) for name in columns] for row in rows])
    random = np.random.default_rng(seed)
    train, queries, test = _split(random, len(rows))
    features = (features - features[train].mean(0)) / features[train].std(0)
    targets = (targets - targets[train].mean()) / targets[train].std()
    wrong = _drawn(random, share)
    given = targets[train].copy()
    given[wrong] = random.choice(targets[train][~wrong], wrong.sum())
    task = TargetTensors(
        (_floats(features[train]), _floats(given)),
        (_floats(features[queries]), _floats(targets[queries])),
        (len(columns), 64, 1),
    )
    held_out = TensorDataset(_floats(features[test]), _floats(targets[test]))
    return NoisySet(task, SGDRecipe(40, 32, 0.01, 0.9), wrong, targets[train], held_out)


def sst2(data: Path, seed: int, share: float = 0.1) -> NoisySet:
    """Return 4,000 sentences as weighted counts of words, and an MLP.

    Args:
        data: Folder with sst2_train.tsv and sst2_dev.tsv.
        seed: Of the sentences taken and the labels exchanged.
        share: Of labels exchanged.
    """
    sides = [
        [line.rsplit("\t", 1) for line in (data / name).read_text().splitlines()[1:]]
        for name in ("sst2_train.tsv", "sst2_dev.tsv")
    ]
    # Phrases of a few words have no label of their own.
    sides[0] = [row for row in sides[0] if len(row[0].split()) > 5]  # noqa: PLR2004
    random = np.random.default_rng(seed)
    mixed = [[side[i] for i in random.permutation(len(side))] for side in sides]
    taken = [mixed[0][:_SENTENCES], mixed[1][:_QUERIES], mixed[1][_QUERIES:]]
    words = TfidfVectorizer(max_features=_WORDS).fit(text for text, _ in taken[0])
    inputs = [_floats(words.transform([text for text, _ in side]).toarray()) for side in taken]
    train, queries, test = (np.array([int(label) for _, label in side]) for side in taken)
    wrong = _drawn(random, share, count=_SENTENCES)
    task = ClassTensors(
        (inputs[0], torch.tensor(np.where(wrong, 1 - train, train))),
        (inputs[1], torch.tensor(queries)),
        (inputs[0].shape[1], 32, 2),
    )
    held_out = TensorDataset(inputs[2], torch.tensor(test))
    return NoisySet(task, SGDRecipe(12, 32, 0.1, 0.9, 5e-4), wrong, train, held_out)


SETS: dict[str, Callable[[Path, int], NoisySet]] = {
    "digits, 8 %": digits,
    "digits, clean": lambda data, seed: digits(data, seed, 0.0),
    "MNIST, 5 %": lambda data, seed: mnist(data, seed, 0.05),
    "MNIST, 10 %": lambda data, seed: mnist(data, seed, 0.1),
    "MNIST, 20 %": lambda data, seed: mnist(data, seed, 0.2),
    "MNIST, 40 %": lambda data, seed: mnist(data, seed, 0.4),
    "MNIST, 10 % next class": lambda data, seed: mnist(data, seed, 0.1, paired=True),
    "Parkinsons, 10 %": parkinsons,
    "SST-2, 10 %": sst2,
}
"""Name -> what makes a seed of it of the folder with the data."""


def _read_idx(file: Path) -> np.ndarray[Any, Any]:
    content = gzip.decompress(file.read_bytes())
    dimensions = content[3]
    shape = np.frombuffer(content, ">i4", dimensions, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def _split(random: np.random.Generator, count: int) -> list[np.ndarray[Any, Any]]:
    """Return the training examples, the queries and the rest."""
    return np.split(random.permutation(count), [_EXAMPLES, _EXAMPLES + _QUERIES])


def _drawn(
    random: np.random.Generator, share: float, *, count: int = _EXAMPLES
) -> np.ndarray[Any, Any]:
    wrong = np.zeros(count, dtype=bool)
    wrong[random.choice(count, round(share * count), replace=False)] = True
    return wrong


def _floats(values: np.ndarray[Any, Any]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)


def _labelled(data: TensorDataset) -> pl.DataFrame:
    labels = data.tensors[1].tolist()
    names = [f"e{i:05d}" for i in range(len(labels))]
    return pl.DataFrame({"example_id": names, "label": labels})
