"""Gauss–Newton products against the matrix written out in float64."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F  # noqa: N812, the name everybody reads
from torch import Tensor, nn

from sourcetrace.core.curvature import gauss_newton
from sourcetrace.core.curvature.gauss_newton import gauss_newton_products
from sourcetrace.core.layers.discovery import find_layers
from sourcetrace.errors import InputError
from sourcetrace.tasks import ClassificationTask
from tests.oracles.gauss_newton import gauss_newton_matrix
from tests.tiny import TinyConvNet, assert_close, seeded

CLASSES = 3
DIRECTIONS = 18
"""More than go through one pass."""


class SharedNet(nn.Module):
    """An embedding whose weight is the output layer's too, attention and normalisation between."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 5, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.embedding(tokens)
        mixed, _ = self.attention(hidden, hidden, hidden, need_weights=False)
        return self.head(self.norm(hidden + mixed)).mean(1)


class Fit(NamedTuple):
    logits: Tensor
    scale: Tensor


class TwoHeads(nn.Module):
    """Two outputs that the loss multiplies, and a third that it leaves alone."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(4, 5)
        self.logits = nn.Linear(5, CLASSES)
        self.scale = nn.Linear(5, 1)

    def forward(self, inputs: Tensor) -> dict[str, Any]:
        hidden = torch.tanh(self.body(inputs))
        logits = self.logits(hidden)
        return {"fit": Fit(logits, self.scale(hidden)), "unused": [hidden], "note": "text"}


class ScaledTask(ClassificationTask):
    """Cross-entropy with a temperature that the model gives."""

    def train_loss(self, outputs: Mapping[str, Any], batch: Any) -> Tensor:
        fit = outputs["fit"]
        scaled = fit.logits * fit.scale.exp()
        return F.cross_entropy(scaled, batch[1], reduction="none")


def check(model: nn.Module, task: Any, batch: tuple[Tensor, Tensor], flatten, loss_of) -> None:
    """Compare products with the matrix; `flatten` lays an example's outputs out flat."""
    inputs, targets = batch
    count = len(targets)
    layers = find_layers(model, lambda: model(inputs[:2])).layers
    with seeded(3):
        directions = {
            one.name: torch.randn(DIRECTIONS, *one.shape, dtype=torch.float64) for one in layers
        }
    found = gauss_newton_products(model, layers, task, batch, directions, examples=count)
    names = [name for one in layers for name in one.parameters]
    matrix = gauss_newton_matrix(
        model,
        names,
        lambda net, tensors, i: flatten(
            torch.func.functional_call(net, tensors, (inputs[i : i + 1],))
        ),
        lambda values, i: loss_of(values, targets[i]),
        count,
    )
    parameters = dict(model.named_parameters())

    def flat(matrices: Mapping[str, Tensor]) -> Tensor:
        tensors: dict[str, Tensor] = {}
        for one in layers:
            tensors |= one.parameter_tensors(matrices[one.name], parameters)
        return torch.cat([tensors[name].flatten(1) for name in names], dim=1)

    assert_close(flat(found) / count, flat(directions) @ matrix)


def classification_batch(*shape: int) -> tuple[Tensor, Tensor]:
    with seeded(2):
        return torch.randn(4, *shape, dtype=torch.float64), torch.randint(CLASSES, (4,))


def cross_entropy(values: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(values.unsqueeze(0), target.unsqueeze(0))


def test_convolutions_in_groups_and_in_place_activations():
    with seeded(1):
        model = TinyConvNet().double().eval()
    check(model, ClassificationTask(), classification_batch(1, 5, 5), lambda o: o[0], cross_entropy)


def test_one_direction_at_a_time_gives_the_same(monkeypatch):
    """As for an operation that cannot be batched."""
    real = torch.autograd.grad

    def refusing(*arguments: Any, is_grads_batched: bool = False, **options: Any) -> Any:
        if is_grads_batched:
            raise RuntimeError("no batching rule")
        return real(*arguments, **options)

    with seeded(1):
        model = TwoHeads().double().eval()
    monkeypatch.setattr(gauss_newton.torch.autograd, "grad", refusing)
    check_two_heads(model)


def test_outputs_in_nested_containers():
    with seeded(1):
        model = TwoHeads().double().eval()
    check_two_heads(model)


def check_two_heads(model: nn.Module) -> None:
    def loss(values: Tensor, target: Tensor) -> Tensor:
        return cross_entropy(values[:CLASSES] * values[CLASSES].exp(), target)

    check(
        model,
        ScaledTask(),
        classification_batch(4),
        lambda outputs: torch.cat([outputs["fit"].logits[0], outputs["fit"].scale[0]]),
        loss,
    )


def test_a_weight_with_two_uses_and_attention():
    with seeded(1):
        model = SharedNet().double().eval()
    with seeded(2):
        batch = (torch.randint(5, (4, 3)), torch.randint(5, (4,)))
    check(model, ClassificationTask(), batch, lambda o: o[0], cross_entropy)


def test_a_linear_loss_has_no_curvature():
    class Linear(ClassificationTask):
        def train_loss(self, outputs: Tensor, batch: Any) -> Tensor:
            return outputs.sum(1)

    model = nn.Linear(4, CLASSES).double()
    batch = classification_batch(4)
    layers = find_layers(model, lambda: model(batch[0])).layers
    directions = {one.name: torch.ones(2, *one.shape, dtype=torch.float64) for one in layers}
    found = gauss_newton_products(model, layers, Linear(), batch, directions, examples=4)
    assert not any(one.any() for one in found.values())


def test_detached_outputs_are_refused():
    class Detached(ClassificationTask):
        def forward(self, model: nn.Module, batch: Any) -> Tensor:
            return model(batch[0]).detach()

    model = nn.Linear(4, CLASSES).double()
    batch = classification_batch(4)
    layers = find_layers(model, lambda: model(batch[0])).layers
    directions = {one.name: torch.ones(2, *one.shape, dtype=torch.float64) for one in layers}
    with pytest.raises(InputError, match="not detached"):
        gauss_newton_products(model, layers, Detached(), batch, directions, examples=4)
