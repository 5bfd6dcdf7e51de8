"""The plain SGD loop: what it trains on, and that a seed repeats it."""

import polars as pl
import pytest
import torch
from torch import nn

from sourcetrace.errors import InputError
from sourcetrace.parameters import DemoParameters
from sourcetrace.pipelines.demo_training.nodes import plant_label_errors, train_network
from sourcetrace.tasks import ClassificationTask, SGDRecipe, train_with_sgd
from sourcetrace.tasks.digits import DigitsTask

RECIPE = SGDRecipe(epochs=3, batch_size=4, learning_rate=0.1, momentum=0.5, weight_decay=0.01)


class Watched:
    """Training data that notes what is read."""

    def __init__(self):
        self.read = []

    def __getitem__(self, index):
        self.read.append(index)
        return torch.full((2,), float(index)), index % 3

    def __len__(self):
        return 20


class WatchedTask(ClassificationTask):
    def __init__(self):
        self.items = Watched()

    def build_model(self):
        return nn.Sequential(nn.Dropout(0.5), nn.Linear(2, 3))

    def train_examples(self):
        return self.items


def weights(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_it_reads_the_chosen_examples_and_no_others():
    task = WatchedTask()
    chosen = [1, 2, 3, 5, 8, 13, 14, 16, 17]
    model = train_with_sgd(task, chosen, RECIPE, seed=0)
    assert set(task.items.read) <= set(chosen)
    # 9 examples in batches of 4: two whole batches an epoch.
    assert len(task.items.read) == 3 * 2 * 4
    assert not model.training


def test_a_seed_repeats_it_whatever_was_drawn_before():
    first = train_with_sgd(WatchedTask(), range(20), RECIPE, seed=1)
    torch.rand(7)
    before = torch.get_rng_state()
    again = train_with_sgd(WatchedTask(), range(20), RECIPE, seed=1)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(weights(first), weights(again))
    other = train_with_sgd(WatchedTask(), range(20), RECIPE, seed=2)
    assert not torch.equal(weights(first), weights(other))


def test_fewer_examples_than_a_batch_are_refused():
    with pytest.raises(InputError, match="3 examples for batches of 4"):
        train_with_sgd(WatchedTask(), [0, 1, 2], RECIPE, seed=0)


def test_the_demos_own_seed_and_all_scans_repeat_the_audited_model(tmp_path):
    demo = DemoParameters(epochs=1, seed=3)
    training, queries, _ = plant_label_errors(demo)
    checkpoints, _, recipe, *_ = train_network(training, queries, demo)
    training.write_parquet(tmp_path / "training.parquet")
    queries.write_parquet(tmp_path / "queries.parquet")
    files = {
        "training_set": str(tmp_path / "training.parquet"),
        "query_set": str(tmp_path / "queries.parquet"),
        "recipe": str(tmp_path / "recipe.json"),
    }
    with pytest.raises(InputError, match="demo_training"):
        DigitsTask(**files).train(range(100), seed=3)
    (tmp_path / "recipe.json").write_text(str(recipe).replace("'", '"'))
    model = DigitsTask(**files).train(range(training.height), seed=3)
    last = checkpoints[-1]["model_state_dict"]
    assert all(torch.equal(value, last[name]) for name, value in model.state_dict().items())


def test_scans_come_from_the_tables():
    table = pl.DataFrame({"example_id": ["a"], "pixels": [[0.5] * 64], "label": [3]}).with_columns(
        pl.col("pixels").cast(pl.Array(pl.Float32, 64))
    )
    (scan, label), *_ = DigitsTask(table, table).train_examples()
    assert scan.shape == (1, 8, 8)
    assert label == 3
