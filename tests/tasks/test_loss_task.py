"""Every ready-made loss behind several kinds of layers, against autograd of each example."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sourcetrace.core.engine.passes import Batch
from sourcetrace.core.gradients.per_example import LayerGradient
from sourcetrace.core.layers.discovery import find_layers
from sourcetrace.core.model.objective import ExampleGenerator
from sourcetrace.tasks import (
    BinaryTask,
    ClassificationTask,
    MultiLabelTask,
    RegressionTask,
    TokenClassificationTask,
)
from sourcetrace.tasks.loss_task import LossTask
from sourcetrace.tasks.losses import (
    AbsoluteError,
    BinaryCrossEntropy,
    BinaryFocalLoss,
    CrossEntropy,
    FocalLoss,
    Gamma,
    GaussianNLL,
    Huber,
    Loss,
    Poisson,
    Quantile,
    SmoothL1,
    Tweedie,
)
from tests.tiny import assert_close, seeded

TASKS: dict[str, tuple[type[LossTask], Loss]] = {
    "classes": (ClassificationTask, CrossEntropy(label_smoothing=0.1)),
    "focal": (ClassificationTask, FocalLoss()),
    "binary": (BinaryTask, BinaryCrossEntropy(pos_weight=2.0)),
    "binary focal": (BinaryTask, BinaryFocalLoss()),
    "labels": (MultiLabelTask, BinaryCrossEntropy()),
    "tokens": (TokenClassificationTask, CrossEntropy()),
    "Huber": (RegressionTask, Huber(0.5)),
    "smooth L1": (RegressionTask, SmoothL1(0.5)),
    "absolute": (RegressionTask, AbsoluteError(1.0)),
    "quantile": (RegressionTask, Quantile(0.9, 1.0)),
    "Poisson": (RegressionTask, Poisson()),
    "Gamma": (RegressionTask, Gamma()),
    "Tweedie": (RegressionTask, Tweedie()),
    "Gaussian": (RegressionTask, GaussianNLL()),
}
EXAMPLES = 4


class Convolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, 3, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(images).tanh().flatten(2).mT


class Embedding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Embedding(5, 3)

    def forward(self, words: Tensor) -> Tensor:
        return self.layer(words).tanh()


class Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 3)

    def forward(self, numbers: Tensor) -> Tensor:
        return self.layer(numbers).tanh()


class Head(nn.Module):
    """Features [B, T, 3] to the outputs that the task wants."""

    def __init__(self, body: nn.Module, outputs: int, *, pooled: bool) -> None:
        super().__init__()
        self.body, self.head, self.pooled = body, nn.Linear(3, outputs), pooled

    def forward(self, inputs: Tensor) -> Tensor:
        features = self.body(inputs)
        return self.head(features.mean(1) if self.pooled else features)


def case(name: str, body: str) -> tuple[LossTask, nn.Module, Any]:
    """Return a task, its model and a batch."""
    task_class, loss = TASKS[name]
    task = task_class()
    task.loss = loss
    outputs = 1 if task_class is BinaryTask else 2
    with seeded(71):
        inputs = {
            "Linear": torch.randn(EXAMPLES, 4, 2).double(),
            "Convolution": torch.randn(EXAMPLES, 1, 3, 3).double(),
            "Embedding": torch.randint(5, (EXAMPLES, 4)),
        }[body]
        pooled = task_class is not TokenClassificationTask
        model = Head(globals()[body](), outputs, pooled=pooled).double()
        shape = {
            ClassificationTask: (EXAMPLES,),
            BinaryTask: (EXAMPLES,),
            TokenClassificationTask: (EXAMPLES, 4),
        }.get(task_class, (EXAMPLES,) if isinstance(loss, GaussianNLL) else (EXAMPLES, 2))
        targets = torch.randint(2, shape)
    targets = targets.double() if task_class is RegressionTask else targets
    return task, model.eval(), (inputs, targets)


@pytest.mark.parametrize("body", ["Linear", "Convolution", "Embedding"])
@pytest.mark.parametrize("name", TASKS)
def test_gradients_are_those_of_each_example_alone(name, body):
    task, model, batch = case(name, body)
    layers = find_layers(model, lambda: model(batch[0]), examples=EXAMPLES).layers
    ones = [tuple(part[place : place + 1] for part in batch) for place in range(EXAMPLES)]
    passes = Batch(model, task, layers, batch, torch.arange(EXAMPLES), ones.__getitem__)
    found = passes.training_passes(
        own=torch.ones(EXAMPLES).bool(), seeds=range(EXAMPLES), sampled=True
    )
    losses, drawn = [], []
    for example, one in enumerate(ones):
        outputs = task.forward(model, one)
        losses.append(task.train_loss(outputs, one).sum())
        generator = ExampleGenerator.for_examples([example])
        drawn.append(task.sampled_loss(outputs, generator, one).sum())
    assert_close(found.signals.loss, torch.stack(losses))
    assert_close(gram(found.gradients), gram_of_each(model, losses))
    assert_close(gram(found.sampled), gram_of_each(model, drawn))


def gram(gradients: Mapping[str, LayerGradient]) -> Tensor:
    """Return the products of all pairs of examples' gradients, whatever their layout."""
    rows = torch.cat([layer.dense().flatten(1) for layer in gradients.values()], 1)
    return rows @ rows.T


def gram_of_each(model: nn.Module, losses: Sequence[Tensor]) -> Tensor:
    weights = list(model.parameters())
    gradients = [torch.autograd.grad(loss, weights, retain_graph=True) for loss in losses]
    rows = torch.stack([torch.cat([part.flatten() for part in row]) for row in gradients])
    return rows @ rows.T
