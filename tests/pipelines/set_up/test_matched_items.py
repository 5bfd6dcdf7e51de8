"""A process that has not read all data compares what it reads with what the ingest read."""

from dataclasses import replace

import pytest
import torch

from sourcetrace.errors import InputError, OtherDataError
from sourcetrace.pipelines.gradient_extraction.work import extract
from sourcetrace.pipelines.set_up.matched_items import MatchedItems
from sourcetrace.pipelines.shared.set_aside import _FILE as EXCLUDED
from sourcetrace.pipelines.source_scoring.work import score
from sourcetrace.work.ledger import Ledger
from sourcetrace.work.team import Team
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


@pytest.fixture(autouse=True)
def _few_are_tried(monkeypatch):
    # Of so few examples a batch would have all.
    monkeypatch.setattr("sourcetrace.audit.identity.data_digest._TRIED", 4)


def test_the_same_data_have_the_same_units_and_those_of_a_range_are_read_alone(audits, tmp_path):
    own = audits.set_up(Changed(), Ledger(tmp_path))
    task = Counted()
    other = audits.set_up(Changed(), Ledger(tmp_path), elsewhere=task, rank=1, size=2)
    assert (own.inputs.read, other.inputs.read) == (True, False)
    assert other.unit("source_scoring", "one") == own.unit("source_scoring", "one")
    assert own.inputs.unit_parts("source_scoring") == other.inputs.unit_parts("source_scoring")
    left = {number for number, reads in enumerate(task.reads) if number >= 8 and not reads}
    assert left
    with pytest.raises(EnoughError):
        extract(replace(other, team=HalfDone(Ledger(tmp_path))))
    assert min(task.reads[:8]) > 0
    assert not any(task.reads[number] for number in left)


class HalfDone(Team):
    """A process that does a phase's first unit, and takes the rest for somebody else's."""

    def run(self, units, do, description):
        super().run(units[:1], do, description)
        raise EnoughError


class EnoughError(Exception):
    pass


@pytest.mark.parametrize("what", ["input", "label", "unreadable"])
def test_an_example_that_is_another_one_here_is_refused_and_not_set_aside(audits, tmp_path, what):
    task = Changed()
    if what == "input":
        task.inputs = task.inputs.clone()
        task.inputs[13] += 1
    elif what == "label":
        task.labels = task.labels.clone()
        task.labels[13] = (task.labels[13] + 1) % 3
    else:
        whole = task.train_examples()
        task.train_examples = lambda: Torn(whole)
    said = r"^Example '\w+' \(index 13\) (is not the one|cannot be read: FileNotFoundError).*same"
    with pytest.raises(OtherDataError, match=said):
        score(audits.set_up(Changed(), Ledger(tmp_path), elsewhere=task, rank=1, size=2))
    assert not list(tmp_path.rglob(EXCLUDED))


class Torn(Counting):
    def __init__(self, items):
        super().__init__(items, [0] * len(items))

    def __getitem__(self, index):
        if index == 13:
            raise FileNotFoundError("13.png")
        return super().__getitem__(index)


def test_other_tables_queries_or_models_are_refused_at_once(audits, tmp_path):
    others = [Changed() for _ in range(3)]
    others[0].query_table = lambda: Changed().query_table().reverse()
    others[1].model_digest = lambda: "another"
    others[2].train_table = lambda: Changed().train_table().reverse()
    for other in others:
        with pytest.raises(InputError, match="The data are not those"):
            audits.set_up(Changed(), Ledger(tmp_path), elsewhere=other)


def test_fewer_examples_are_refused(audits, tmp_path):
    inputs = audits.set_up(Changed(), Ledger(tmp_path)).inputs
    whole = inputs.task.train_examples()
    inputs.task.train_examples = lambda: torch.utils.data.Subset(whole, range(20))
    with pytest.raises(OtherDataError, match=r"^There are 20 training examples, not 22: .* same"):
        MatchedItems.of(inputs)


def test_what_cannot_be_told_apart_is_read_whole(audits, tmp_path):
    class Named(Counted):
        def inputs_of(self, item):
            return item[0]

    task = Named()
    found = audits.set_up(Named(), Ledger(tmp_path), elsewhere=task)
    assert found.inputs.read
    assert min(task.reads) > 0
