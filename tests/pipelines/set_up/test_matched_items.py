"""A process that has not read all data compares what it reads with what the ingest read."""

import pytest
import torch

from sourcetrace.errors import InputError, OtherDataError
from sourcetrace.pipelines.source_scoring.work import score
from sourcetrace.work.ledger import Ledger
from tests.pipelines.test_changed_data import Audits, Changed


class Counted(Changed):
    """Counts how often each training example is read."""

    def __init__(self):
        super().__init__()
        self.reads = [0] * len(self.order)

    def train_examples(self):
        return Counting(super().train_examples(), self.reads)


class Counting:
    def __init__(self, items, reads):
        self.items, self.reads = items, reads

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        self.reads[index] += 1
        return self.items[index]


@pytest.fixture(scope="module")
def audits(tmp_path_factory):
    return Audits(tmp_path_factory.mktemp("run"))


def test_the_same_data_have_the_same_units_and_few_are_read_before_there_is_work(audits, tmp_path):
    audits.set_up(Changed(), Ledger(tmp_path))  # chooses the grid
    own = audits.set_up(Changed(), Ledger(tmp_path))
    task = Counted()
    other = audits.set_up(Changed(), Ledger(tmp_path), elsewhere=task, rank=1, size=2)
    assert (own.inputs.read, other.inputs.read) == (True, False)
    assert other.unit("source_scoring", "one") == own.unit("source_scoring", "one")
    assert own.inputs.unit_parts("source_scoring") == other.inputs.unit_parts("source_scoring")
    read = sum(task.reads)
    first, *_ = other.grid.ranges(len(other.engine.training))
    examples = other.engine.training
    again = [examples.items[i] for i in first.numbers.tolist() * 3]
    assert torch.equal(again[0][0], own.engine.training.items[0][0])
    assert sum(task.reads) == read + len(again)


@pytest.mark.parametrize("what", ["input", "label"])
def test_an_example_that_is_another_one_here_is_refused_and_not_set_aside(
    audits, tmp_path, what, monkeypatch
):
    # Of so few examples a batch would have all.
    monkeypatch.setattr("sourcetrace.audit.identity.data_digest._TRIED", 4)
    task = Changed()
    if what == "input":
        task.inputs = task.inputs.clone()
        task.inputs[13] += 1
    else:
        task.labels = task.labels.clone()
        task.labels[13] = (task.labels[13] + 1) % 3
    with pytest.raises(OtherDataError, match=r"^Example '\w+' \(index 13\) is not the one .*same"):
        score(audits.set_up(Changed(), Ledger(tmp_path), elsewhere=task, rank=1, size=2))
    assert not (tmp_path / "set_aside.json").exists()


def test_other_queries_another_model_or_fewer_examples_are_refused_at_once(audits, tmp_path):
    others = [Changed() for _ in range(3)]
    others[0].query_table = lambda: Changed().query_table().reverse()
    others[1].model_digest = lambda: "another"
    for other in others[:2]:
        with pytest.raises(InputError, match="The data are not those"):
            audits.set_up(Changed(), Ledger(tmp_path), elsewhere=other)
    whole = others[2].train_examples()
    others[2].train_examples = lambda: torch.utils.data.Subset(whole, range(20))
    with pytest.raises(InputError, match=r"20 training examples|data are not those"):
        audits.set_up(Changed(), Ledger(tmp_path), elsewhere=others[2])


def test_what_cannot_be_told_apart_is_read_whole(audits, tmp_path):
    class Named(Counted):
        def inputs_of(self, item):
            return item[0]

    task = Named()
    found = audits.set_up(Named(), Ledger(tmp_path), elsewhere=task)
    assert found.inputs.read
    assert min(task.reads) > 0
