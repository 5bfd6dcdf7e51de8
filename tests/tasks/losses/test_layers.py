"""Every loss of docs/reference/losses.md on every layer of layers.md, against autograd.

The core's gradients of training loss and measurement, and the second moment of its sampled ones,
are held against J, an autograd call for every output of every example, and the derivatives of the
loss by the outputs.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from sourcetrace.core.engine.draws import choose_draws
from sourcetrace.core.engine.gradient_engine import GradientEngine
from sourcetrace.core.layers.discovery import Coverage, find_layers
from sourcetrace.core.model.examples import Block, EvaluationPoint, Examples
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
    SquaredError,
    Tweedie,
)
from tests.core.layers.checks import check_all_counted
from tests.tiny import KeepsNothing, assert_close, seeded

EXAMPLES, OUTPUTS = 3, 6
EVERYTHING = torch.arange(EXAMPLES)
POINT = EvaluationPoint("c", ("c",), EVERYTHING, EVERYTHING)


class Scale(nn.Module):
    """A feature's factor, 1 + weight, as some normalisations of transformers have it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(6))

    def forward(self, values: Tensor) -> Tensor:
        return values * (1 + self.weight)


class Bent(nn.Module):
    """A parameter that no kind covers."""

    def __init__(self) -> None:
        super().__init__()
        self.bend = nn.Parameter(torch.zeros(4, 6))

    def forward(self, values: Tensor) -> Tensor:
        return (values * self.bend).sin()


def tokens(values: Tensor) -> Tensor:
    return (10 * values[..., 0].abs()).long() % 7


def step_by_step(cell: nn.Module, values: Tensor) -> Tensor:
    state = None
    for step in values.unbind(1):
        state = cell(step, state)
    return state[0] if isinstance(state, tuple) else state


Call = Callable[[nn.Module, Tensor], Tensor]
READS: Call = lambda module, values: module(values)[0]  # noqa: E731
LAYERS: dict[str, Callable[[], nn.Module] | tuple[Callable[[], nn.Module], Call]] = {
    "Linear": lambda: nn.Linear(6, 2),
    "Linear, called twice": (lambda: nn.Linear(6, 6), lambda m, x: m(m(x).tanh())),
    "Linear, examples flattened": (
        lambda: nn.Linear(6, 2),
        lambda m, x: m(x.flatten(0, 1)).unflatten(0, x.shape[:2]),
    ),
    "Bilinear": (lambda: nn.Bilinear(6, 6, 2), lambda m, x: m(x, x.cos())),
    "Conv1d": lambda: nn.Conv1d(4, 2, 3, groups=2, padding=1),
    "Conv2d": (lambda: nn.Conv2d(1, 2, 3, stride=2), lambda m, x: m(x[:, None])),
    "Conv3d": (lambda: nn.Conv3d(1, 2, 2), lambda m, x: m(x.reshape(-1, 1, 2, 2, 6))),
    "ConvTranspose1d": lambda: nn.ConvTranspose1d(4, 2, 3, stride=2),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(1, 2, 2), lambda m, x: m(x[:, None])),
    "ConvTranspose3d": (
        lambda: nn.ConvTranspose3d(1, 2, 2),
        lambda m, x: m(x.reshape(-1, 1, 2, 2, 6)),
    ),
    "LayerNorm": lambda: nn.LayerNorm(6),
    "RMSNorm": lambda: nn.RMSNorm(6),
    "GroupNorm": lambda: nn.GroupNorm(2, 4),
    "InstanceNorm1d": lambda: nn.InstanceNorm1d(4, affine=True),
    "BatchNorm1d": lambda: nn.BatchNorm1d(4),
    "PReLU": lambda: nn.PReLU(4),
    "factor of features": Scale,
    "Embedding": (lambda: nn.Embedding(7, 2), lambda m, x: m(tokens(x))),
    "EmbeddingBag": (lambda: nn.EmbeddingBag(7, 2), lambda m, x: m(tokens(x))),
    "MultiheadAttention": (
        lambda: nn.MultiheadAttention(6, 2, batch_first=True),
        lambda m, x: m(x, x, x)[0],
    ),
    "TransformerEncoderLayer": lambda: nn.TransformerEncoderLayer(6, 2, 4, batch_first=True),
    "RNN": (lambda: nn.RNN(6, 2, batch_first=True), READS),
    "LSTM": (lambda: nn.LSTM(6, 2, batch_first=True, proj_size=1), READS),
    "GRU": (lambda: nn.GRU(6, 2, batch_first=True, bidirectional=True), READS),
    "RNNCell": (lambda: nn.RNNCell(6, 2), step_by_step),
    "LSTMCell": (lambda: nn.LSTMCell(6, 2), lambda m, x: m(x[:, 1], m(x[:, 0]))[0]),
    "GRUCell": (lambda: nn.GRUCell(6, 2), step_by_step),
    "bare parameter": Bent,
    "weight norm": lambda: parametrizations.weight_norm(nn.Linear(6, 2)),
}


@dataclass(frozen=True)
class Case:
    """A loss, the targets of three examples, and the shape of an example's outputs.

    Attributes:
        curvature: Outputs and targets -> the diagonal that stands in for the Hessian, [N, P].
    """

    task_class: type[LossTask]
    loss: Loss
    shape: tuple[int, ...]
    targets: Tensor
    curvature: Callable[[Tensor, Tensor], Tensor] | None = None

    @property
    def columns(self) -> int:
        return math.prod(self.shape)

    def task(self) -> LossTask:
        class Shaped(self.task_class):  # type: ignore[name-defined, misc]
            loss = self.loss

            def forward(task, model, batch):  # noqa: N805
                return task.shaped(model(batch[0]))

            def shaped(task, outputs):  # noqa: N805
                return outputs[:, : self.columns].reshape(-1, *self.shape)

        return Shaped()


CLASSES = torch.tensor([2, 0, 1])
SHARES = torch.tensor([[0.2, 0.3, 0.5], [1.0, 0.0, 0.0], [0.1, 0.8, 0.1]]).double()
TAGS = torch.tensor([[2, 0], [-100, 1], [1, 1]])
BINARY = torch.tensor([1.0, 0.0, 0.3]).double()
SEVERAL = torch.tensor([[1, 0, 1], [0, math.nan, -1], [1, 1, 0]]).double()
NUMBER = torch.tensor([0.3, -0.4, 4.0]).double()
NUMBERS = torch.stack([NUMBER, -NUMBER, NUMBER / 2], 1)
AMOUNT = NUMBER.abs()
WEIGHTS = {"class_weights": (0.5, 2.0, 1.0), "mean_weight": 1.2}
LOSSES = {
    "cross-entropy": Case(ClassificationTask, CrossEntropy(), (3,), CLASSES),
    "cross-entropy, weights, smoothing": Case(
        ClassificationTask, CrossEntropy(**WEIGHTS, label_smoothing=0.1), (3,), CLASSES
    ),
    "cross-entropy, shares": Case(ClassificationTask, CrossEntropy(), (3,), SHARES),
    "focal": Case(ClassificationTask, FocalLoss(**WEIGHTS), (3,), CLASSES),
    "cross-entropy of tokens": Case(TokenClassificationTask, CrossEntropy(), (2, 3), TAGS),
    "focal of tokens": Case(TokenClassificationTask, FocalLoss(), (2, 3), TAGS),
    "binary": Case(BinaryTask, BinaryCrossEntropy(pos_weight=3, label_smoothing=0.1), (), BINARY),
    "binary focal": Case(BinaryTask, BinaryFocalLoss(), (1,), BINARY.round()),
    "several labels": Case(MultiLabelTask, BinaryCrossEntropy(), (3,), SEVERAL),
    "several labels, focal": Case(MultiLabelTask, BinaryFocalLoss(), (3,), SEVERAL),
    "squared error": Case(RegressionTask, SquaredError(0.5), (3,), NUMBERS),
    "Huber": Case(RegressionTask, Huber(1.5), (3,), NUMBERS),
    "smooth L1": Case(RegressionTask, SmoothL1(1.5), (1,), NUMBER),
    "Poisson": Case(RegressionTask, Poisson(), (), AMOUNT),
    "Gamma": Case(RegressionTask, Gamma(), (), AMOUNT),
    "Tweedie": Case(RegressionTask, Tweedie(1.4), (3,), NUMBERS.abs()),
    "absolute error": Case(
        RegressionTask,
        AbsoluteError(width=1.5),
        (),
        NUMBER,
        lambda z, y: ((z - y[:, None]).abs() < 1.5).double() / 1.5,
    ),
    "quantile": Case(
        RegressionTask,
        Quantile(0.8, width=1.5),
        (),
        NUMBER,
        lambda z, y: ((z - y[:, None]).abs() < 1.5).double() / 3,
    ),
    "Gaussian": Case(
        RegressionTask,
        GaussianNLL(),
        (2,),
        NUMBER,
        lambda z, _: torch.stack([(-z[:, 1]).exp(), torch.full_like(z[:, 1], 0.5)], 1),
    ),
}


class Model(nn.Module):
    """One layer between given inputs, [N, 4, 6], and six outputs that mix all it makes."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        given = LAYERS[kind]
        make, self.call = given if isinstance(given, tuple) else (given, nn.Module.__call__)
        self.layer = make()
        self.double().eval()
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.7)
        features = self.call(self.layer, torch.zeros(1, 4, 6).double()).numel()
        self.register_buffer("mix", torch.randn(features, OUTPUTS).double() / features**0.5 / 2)

    def forward(self, values: Tensor) -> Tensor:
        return self.call(self.layer, values).tanh().flatten(1) @ self.mix


@dataclass(frozen=True)
class Given:
    """A model of one kind of layer, and what is to be known of it once.

    Attributes:
        outputs: [N, 6].
        jacobians: Of the outputs by each layer's parameters, [N, 6, size].
    """

    model: Model
    inputs: Tensor
    coverage: Coverage
    outputs: Tensor
    jacobians: dict[str, Tensor]


@cache
def given(kind: str) -> Given:
    with seeded(17):
        model, inputs = Model(kind), torch.randn(EXAMPLES, 4, 6).double()

    def run(count: int) -> Callable[[], Tensor]:
        return lambda: model(inputs[:count])

    coverage = find_layers(model, run(2), examples=2, further=[(run(3), 3)], bare=1000)
    check_all_counted(coverage, model)
    assert coverage.share == 1.0
    names, parameters = zip(*model.named_parameters(), strict=True)
    outputs = torch.cat([model(inputs[i : i + 1]) for i in range(EXAMPLES)])
    rows = [torch.autograd.grad(one, parameters, retain_graph=True) for one in outputs.flatten()]
    named = [dict(zip(names, row, strict=True)) for row in rows]
    jacobians = {
        layer.name: torch.stack([layer.weight_matrix(row) for row in named]).reshape(
            EXAMPLES, OUTPUTS, -1
        )
        for layer in coverage.layers
    }
    return Given(model, inputs, coverage, outputs.detach(), jacobians)


def engine_of(known: Given, case: Case) -> GradientEngine:
    task = case.task()
    items = list(zip(known.inputs, case.targets, strict=True))
    return GradientEngine(
        model=known.model,
        objective=task,
        coverage=known.coverage,
        training=Examples(items, ["a", "b", "c"], task.collate),
        load_weights=lambda _: known.model.state_dict(),
        cache=KeepsNothing(),
        batch_size=EXAMPLES,
        seed=0,
    )


def derivatives(
    known: Given, case: Case, values: Callable[[Tensor, Any], Tensor], task: LossTask
) -> tuple[Tensor, Tensor]:
    """Return the first and second derivatives by each example's outputs, [N, P], [N, P, P]."""
    outputs = known.outputs[:, : case.columns].requires_grad_()
    found = values(task.shaped(outputs), (None, case.targets))
    (slopes,) = torch.autograd.grad(found.sum(), outputs, create_graph=True)
    bends = [
        torch.autograd.grad(one.sum(), outputs, retain_graph=True, materialize_grads=True)[0]
        if one.requires_grad
        else torch.zeros_like(outputs)
        for one in slopes.unbind(1)
    ]
    return slopes.detach(), torch.stack(bends, 1)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("layer", LAYERS)
def test_gradients_and_curvature_are_autograds(layer, loss):
    known, case = given(layer), LOSSES[loss]
    engine = engine_of(known, case)
    task = engine.objective
    measured, losses = engine.query_gradients(engine.training, POINT, Block(0, EXAMPLES))
    slopes, bends = derivatives(known, case, task.train_loss, task)
    of_measurement, _ = derivatives(known, case, task.measurement, task)
    if case.curvature is not None:
        outputs = known.outputs[:, : case.columns]
        bends = case.curvature(outputs, case.targets).diag_embed()
    draws = choose_draws(engine)
    sampled = [engine.compute(POINT, EVERYTHING, sampled=True, draw=k) for k in range(draws)]
    for name, jacobian in known.jacobians.items():
        j = jacobian[:, : case.columns]
        assert_close(losses[name].dense().flatten(1), torch.einsum("np,nps->ns", slopes, j))
        assert_close(
            measured[name].dense().flatten(1), torch.einsum("np,nps->ns", of_measurement, j)
        )
        rows = torch.stack([one[name].dense().flatten(1) for one in sampled])
        assert_close(
            torch.einsum("kns,knt->nst", rows, rows) / draws,
            torch.einsum("nps,npq,nqt->nst", j, bends, j),
        )
