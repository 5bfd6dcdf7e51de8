"""Every item is read once before an audit, and one that will not do is named."""

import pytest
import torch
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from sourcetrace.errors import InputError
from sourcetrace.pipelines.checkpoint_ingest.labels import classes_of, refuse_other_count
from sourcetrace.pipelines.checkpoint_ingest.tables import checked_table, digest_side
from sourcetrace.tasks import (
    BinaryTask,
    ClassificationTask,
    MultiLabelTask,
    TokenClassificationTask,
)
from sourcetrace.tasks.items import CheckedItems, NotedItems
from tests.pipelines.test_checkpoint_ingest import Tiny

COUNT = 9


class Odd(Dataset):
    """Items of which some are odd; counts how often each is read."""

    def __init__(self, odd, at):
        self.odd, self.at, self.read = odd, at, []

    def __len__(self):
        return COUNT

    def __getitem__(self, index):
        self.read.append(index)
        item = torch.arange(2.0) + index, torch.tensor(index % 3)
        return self.odd(item) if index in self.at else item


class Task(ClassificationTask):
    def __init__(self, odd=None, at=()):
        self.items = Odd(odd, at)

    def train_examples(self):
        return self.items


def unreadable(_):
    raise OSError("broken picture")


def read(task):
    noted = NotedItems(CheckedItems(task, "train", [f"e{i}" for i in range(COUNT)]))
    found = [noted[i] for i in range(COUNT)]
    noted.refuse()
    return found


@pytest.mark.parametrize(
    ("odd", "reason"),
    [
        (unreadable, r"OSError: broken picture \(.*test_items\.py, line \d+\)"),
        (lambda _: None, "it is None"),
        (lambda item: (item[0][:1], item[1]), r"RuntimeError: stack expects .* \(.*line \d+\)"),
        (lambda item: (item[0].double(), item[1]), "its batch holds torch.float64, that of the"),
        (lambda item: item[:1], "RuntimeError|IndexError|ValueError"),
    ],
)
def test_odd_items_are_named_with_the_reason_of_the_first(odd, reason):
    message = rf"^train_examples\(\): the item of example 'e4' \(index 4\) cannot be used: {reason}"
    with pytest.raises(InputError, match=message) as refused:
        read(Task(odd, at=(4,)))
    assert "Nor can be used" not in str(refused.value)
    with pytest.raises(InputError, match=r"Nor can be used: 'e5' \(index 5\), 'e8' \(index 8\)\.$"):
        read(Task(odd, at=(4, 5, 8)))


def test_sound_items_are_as_they_are_and_read_once():
    task = Task()
    found = read(task)
    assert len(found) == COUNT
    assert task.items.read == list(range(COUNT))


def test_what_is_not_read_for_its_digest_is_read_all_the_same():
    class Unknown:
        pass

    class Opaque(Tiny):
        """Items of a type whose bytes are not known: they are read no further for a digest."""

        def train_examples(self):
            return [(torch.ones(2), Unknown()) for _ in range(5)] + [None]

        def collate(self, items):
            return torch.stack([item[0] for item in items])

    items = CheckedItems(Opaque(), "train", [f"e{i}" for i in range(6)])
    with pytest.raises(InputError, match=r"example 'e5' \(index 5\) cannot be used: it is None"):
        digest_side(Opaque(), items, Opaque().train_table())


@pytest.mark.parametrize("sized", [False, True])
def test_a_stream_is_refused(sized):
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(())

    if sized:
        Stream.__len__ = lambda _: 6

    class Streaming(Tiny):
        def train_examples(self):
            return Stream()

    with pytest.raises(
        InputError, match=r"train_examples\(\) returned Stream, which has no length"
    ):
        checked_table(Streaming(), "train")


@pytest.mark.parametrize("label", [3, -1])
def test_labels_without_an_output_are_named(caplog, label):
    class Labelled(Tiny):
        def train_examples(self):
            return TensorDataset(torch.zeros(6, 2), torch.tensor([0, 1, 2, 0, label, 2]))

    items = CheckedItems(Labelled(), "train", [f"e{i}" for i in range(6)])
    message = (
        rf"^train_examples\(\): 1 label beyond the model's 3 outputs.*'e4' \(index 4\): {label}"
    )
    with pytest.raises(InputError, match=message):
        digest_side(Labelled(), items, Labelled().train_table(), classes=3)
    ignoring = Labelled()
    ignoring.ignored_index = label
    assert digest_side(ignoring, items, checked_table(ignoring, "train"), classes=3)
    assert "1 label is ignored_index" in caplog.text
    assert "such as e4" in caplog.text


def test_labels_are_the_tasks_business_where_its_losses_are():
    class Ignoring(Tiny):
        def train_loss(self, outputs, batch):
            return super().train_loss(outputs, batch)

    assert classes_of(Tiny(), torch.zeros(2, 3)) == 3
    assert classes_of(Tiny(), torch.zeros(2, 5, 3)) is None
    assert classes_of(Ignoring(), torch.zeros(2, 3)) is None


@pytest.mark.parametrize(
    ("base", "shape"),
    [
        (BinaryTask, (2,)),
        (ClassificationTask, (2, 2)),
        (MultiLabelTask, (2, 2)),
        (TokenClassificationTask, (2, 5, 2)),
    ],
)
def test_names_of_classes_are_as_many_as_the_outputs(base, shape):
    task = base()
    for names in (None, ["no", "yes"]):
        task.label_names = names
        refuse_other_count(task, torch.zeros(shape))
    for names in (["no"], ["no", "yes", "maybe"]):
        task.label_names = names
        with pytest.raises(InputError, match=r"label_names has .* tells 2 classes apart"):
            refuse_other_count(task, torch.zeros(shape))


def test_items_of_a_form_that_was_joined_before_are_not_joined_again():
    class Counting(Task):
        joined = 0

        def collate(self, items):
            self.joined += 1
            return super().collate(items)

    task = Counting()
    read(task)
    assert task.joined == 2
    task = Counting(lambda item: {"text": "a", "label": item[1]}, at=range(COUNT))
    read(task)  # text may be joined by its length
    assert task.joined == COUNT + 1
