"""An error in the middle of a run names the example, however the batch fails."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812, the name everybody reads
from torch import nn
from torch.utils.data import TensorDataset, default_collate

from sourcetrace.core.engine.gradient_engine import GradientEngine
from sourcetrace.core.layers.discovery import find_layers
from sourcetrace.core.model.examples import Block, EvaluationPoint, Examples
from sourcetrace.errors import InputError
from sourcetrace.tasks import ClassificationTask
from tests.tiny import KeepsNothing, seeded

COUNT = 11


class Plain(ClassificationTask):
    """As somebody writes it who thinks of no odd label."""

    def train_loss(self, outputs, batch):
        return F.cross_entropy(outputs, batch[1], reduction="none")


def extract(items, task=None, collate=default_collate, block=(0, COUNT)):
    with seeded(0):
        model = nn.Sequential(nn.Linear(2, 3))
    training = Examples(items, [f"e{i}" for i in range(COUNT)], collate)
    engine = GradientEngine(
        model=model,
        objective=task or Plain(),
        coverage=find_layers(model, lambda: model(torch.ones(2, 2))),
        training=training,
        load_weights=lambda _: model.state_dict(),
        cache=KeepsNothing(),
        batch_size=COUNT,
        seed=0,
    )
    every = torch.arange(COUNT)
    return engine.extract(EvaluationPoint("end", ("end",), every, every), Block(*block))


def items(change=None, at=7):
    inputs, labels = torch.ones(COUNT, 2), torch.zeros(COUNT, dtype=torch.long)
    found = list(TensorDataset(inputs, labels))
    if change is not None:
        found[at] = change(*found[at])
    return found


@pytest.mark.parametrize("at", [0, 6, 7, COUNT - 1])
@pytest.mark.parametrize(
    "change",
    [
        lambda inputs, _: (inputs, torch.tensor(3)),  # fails in the loss, alone
        lambda inputs, label: (inputs[:1], label),  # fails in collate, beside others
        lambda *_: None,
    ],
)
def test_the_example_at_fault_is_named_wherever_it_stands(at, change):
    with pytest.raises(InputError, match=rf"^Example 'e{at}' \(index {at}\) cannot be evalu"):
        extract(items(change, at))


@pytest.mark.parametrize("at", [3, 5, COUNT - 1])
def test_a_refusal_in_one_example_is_that_examples(at):
    class Picky(ClassificationTask):
        def train_loss(self, outputs, batch):
            if bool((batch[1] == 2).any()):
                raise InputError("Two is refused.")
            return super().train_loss(outputs, batch)

    with pytest.raises(InputError, match=rf"^Example 'e{at}' \(index {at}\): Two is refused\.$"):
        extract(items(lambda inputs, _: (inputs, torch.tensor(2)), at), Picky(), block=(3, COUNT))


def test_the_example_is_named_once():
    odd = items(lambda inputs, _: (inputs, torch.tensor(3)), 5)
    with pytest.raises(InputError, match=r"^Example 'e5' \(index 5\): it has the label 3, but"):
        extract(odd, ClassificationTask())


def test_an_error_of_every_example_is_the_tasks():
    class Averaging(ClassificationTask):
        def train_loss(self, outputs, batch):
            return super().train_loss(outputs, batch).mean()

    with pytest.raises(InputError, match=r"^train_loss"):
        extract(items(), Averaging())


def test_on_a_gpu_that_answers_nothing_any_more_the_batch_is_named():
    class Asserting(ClassificationTask):
        def forward(self, model, batch):
            raise RuntimeError("CUDA error: device-side assert triggered\nmore")

    with pytest.raises(InputError, match=r"^One of the examples 'e3' to 'e10' \(indices 3 to 10\)"):
        extract(items(), Asserting(), block=(3, COUNT))
