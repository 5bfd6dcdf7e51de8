"""What an example is to the curvature: with its label only where that makes a difference there."""

from dataclasses import replace

import polars as pl
import pytest
import torch

from sourcetrace.pipelines.set_up.contents import Contents
from sourcetrace.tasks.losses import CrossEntropy
from sourcetrace.work.ledger import Ledger
from tests.pipelines.test_changed_data import Audits, Changed


class Named(Changed):
    def inputs_of(self, item):
        return item[0]


class Own(Changed):
    """Labels drawn by the generator itself, in the order of the batch."""

    def sampled_loss(self, outputs, generator, batch=None):
        drawn = torch.rand(len(outputs), 1, generator=generator)
        return (outputs * (drawn - 0.5)).sum(-1)


class Weighted(Changed):
    loss = CrossEntropy(class_weights=[1.0, 1.0, 2.0], mean_weight=1.0)


class Doubled(Changed):
    def sampled_loss(self, outputs, generator, batch=None):
        return super().sampled_loss(outputs, generator, batch) * (1 + (batch[1] == 2))


class Masked(Changed):
    """The last label is an ignored one."""

    def __init__(self, relabelled=()):
        super().__init__(relabelled)
        self.labels[21] = self.ignored_index


class Forward(Changed):
    """A model that is given the label."""

    def forward(self, model, batch):
        return model(batch[0]) + batch[1][:, None]


class Broken(Changed):
    """Inputs that do not go with a label."""

    def collate(self, items):
        if items[0][1] == 2 and torch.equal(items[0][0], self.inputs[0]):
            raise ValueError
        return super().collate(items)


def contents_of(audits, tmp_path, task):
    return audits.set_up(task, Ledger(tmp_path)).contents


def equal(before, after):
    """Return of which examples a digest is the same."""
    return (before == after).select(pl.all_horizontal(pl.all())).to_series()


@pytest.fixture(scope="module")
def audits(tmp_path_factory):
    return Audits(tmp_path_factory.mktemp("run"))


@pytest.mark.parametrize(
    ("task", "kept"),
    [
        (Changed, [True] * 3),
        (Own, [True] * 3),
        (Forward, [False] * 3),
        (Broken, [False] * 3),
        (Named, [False] * 3),
        (Weighted, [False] * 3),
        # From 0 to 1, twice, and from 1 to 2, which counts twice.
        (Doubled, [True, True, False]),
        (Masked, [True] * 3),
    ],
)
def test_a_label_counts_where_it_makes_a_difference(audits, tmp_path, task, kept):
    numbers = [3, 11, 12]
    before, after = (contents_of(audits, tmp_path, task(some)) for some in ((), numbers))
    same, whole = equal(before.inputs, after.inputs), equal(before.whole, after.whole)
    assert same.gather(numbers).to_list() == kept
    assert not whole.gather(numbers).any()
    if task is not Named:
        assert whole.sum() == len(same) - 3


def test_of_every_example_there_are_two_digests_and_no_text(audits, tmp_path, monkeypatch):
    """However many are digested at a time, and whether theirs are a table or a file."""
    setup = audits.set_up(Changed(), Ledger(tmp_path))
    found, table = setup.contents, setup.inputs.example_digests
    table.write_parquet(tmp_path / "digests.parquet")
    scanned = replace(setup.inputs, example_digests=pl.scan_parquet(tmp_path / "digests.parquet"))
    monkeypatch.setattr("sourcetrace.pipelines.set_up.contents._AT_ONCE", 5)
    again = Contents.of(scanned, setup.engine)
    for name in ("whole", "inputs"):
        digests = getattr(found, name)
        assert digests.estimated_size() == 16 * len(found.names)
        assert digests.n_unique() == len(digests) == len(found.names)
        assert getattr(again, name).equals(digests)


def test_an_ignored_label_is_another_s_input(audits, tmp_path):
    before, after = (contents_of(audits, tmp_path, task()) for task in (Changed, Masked))
    assert (~equal(before.inputs, after.inputs)).arg_true().to_list() == [21]
