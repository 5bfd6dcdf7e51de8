"""An error in the middle of a run names the example, however the batch fails."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812, the name everybody reads
from torch import nn
from torch.utils.data import TensorDataset, default_collate

from sourcetrace.core.engine.blame import UnusableError
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


def extract(
    items, task=None, collate=default_collate, block=None, set_aside=None, half=False, keep=True
):
    with seeded(0):
        model = nn.Sequential(nn.Linear(2, 3))
    count = len(items)
    training = Examples(items, [f"e{i}" for i in range(count)], collate)
    engine = GradientEngine(
        model=model,
        objective=task or Plain(),
        coverage=find_layers(model, lambda: model(torch.ones(2, 2))),
        training=training,
        load_weights=lambda _: model.state_dict(),
        cache=KeepsNothing(),
        batch_size=count,
        seed=0,
        set_aside=set_aside,
    )
    if half:
        engine._halving.most = 4
    every = torch.arange(count)
    point = EvaluationPoint("end", ("end",), every, every)
    return engine.extract(point, Block(*(block or (0, count))), keep=keep)


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


class Bad(ClassificationTask):
    """Some inputs have no finite loss, measurement or gradient."""

    kind = "train_loss"

    def forward(self, model, batch):
        return model(batch[0])

    def train_loss(self, outputs, batch):
        return super().train_loss(outputs, batch) + self.spoilt("train_loss", outputs, batch)

    def measurement(self, outputs, batch):
        return super().measurement(outputs, batch) + self.spoilt("measurement", outputs, batch)

    def sampled_loss(self, outputs, generator, batch):
        loss = super().sampled_loss(outputs, generator)
        return loss + self.spoilt("sampled_loss", outputs, batch)

    def spoilt(self, kind, outputs, batch):
        """Return 0 with a gradient that is infinite, or NaN, for inputs above 1."""
        total, at = outputs.sum(1), (batch[0][:, 0] > 1) & (kind == self.kind)
        return torch.where(at, total - total.detach(), 1.0).sqrt() - (~at).float()


def odd_items(*at):
    found = items()
    for place in at:
        found[place] = (torch.full((2,), 2.0), found[place][1])
    return found


@pytest.mark.parametrize("kind", ["train_loss", "measurement", "sampled_loss"])
def test_whatever_is_not_finite_is_refused_with_all_examples_of_the_block(kind):
    task = Bad()
    task.kind = kind
    if kind == "measurement":
        task.measurement = lambda outputs, batch: outputs[:, 0] / (batch[0][:, 0] != 2)
    with pytest.raises(
        UnusableError, match=r"^Example 'e3' \(index 3\) has a NaN .* at end"
    ) as one:
        extract(odd_items(3, 9), task)
    assert list(one.value.reasons) == [3, 9]


@pytest.mark.parametrize("half", [False, True])
def test_what_may_be_set_aside_is_left_out(half):
    found = odd_items(3, 9)
    found[5] = None
    told = {}
    passed = extract(found, Bad(), set_aside=lambda error, _: told.update(error.reasons), half=half)
    assert passed.signals.examples.tolist() == [0, 1, 2, 4, 6, 7, 8, 10]
    assert sorted(told) == [3, 5, 9]
    assert told[5].startswith("TypeError")
    alone = extract([one for i, one in enumerate(items()) if i not in told], Bad())
    # An activation's terms are [Σ a aᵀ] of the same examples.
    for name, terms in passed.covariances.items():
        assert sum(one.examples for one in terms) == 8
        assert len(alone.gradients[name]) == len(passed.gradients[name]) == 8


def test_what_is_only_measured_skips_them_and_tells_nobody():
    told = []
    found = extract(odd_items(3, 9), Bad(), set_aside=lambda *one: told.append(one), keep=False)
    assert found.signals.examples.tolist() == [0, 1, 2, 4, 5, 6, 7, 8, 10]
    assert not told


def test_what_every_example_raises_is_set_aside_of_none():
    class Wrong(ClassificationTask):
        def forward(self, model, batch):
            raise KeyError("logits")

    with pytest.raises(InputError, match=r"Example 'e0'.*KeyError: 'logits'") as one:
        extract(items(), Wrong(), set_aside=lambda *_: None)
    assert not isinstance(one.value, UnusableError)


def test_where_no_example_is_left_the_last_is_named():
    with pytest.raises(UnusableError, match="'e4'"):
        extract(odd_items(4), Bad(), block=(4, 5), set_aside=lambda *_: None)
