"""Bags of embeddings against autograd, and the output that takes the place of torch's."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812, the name everybody reads
from torch import Tensor, nn

from sourcetrace.core.gradients.capture import ForwardPass
from sourcetrace.core.gradients.indexed import IndexedGradient
from sourcetrace.core.layers.discovery import find_layers
from sourcetrace.core.layers.kinds.bag import looked_up
from tests.core.layers.checks import (
    check_all_counted,
    check_covariances,
    check_gradients_of,
    coverage_of,
    gradients_of,
    normal,
)
from tests.tiny import assert_close, seeded

TOKENS = 7
LENGTHS = [3, 0, 5, 1]


class Bags(nn.Module):
    """Reads a table of tokens, of each example the first few, in one of several ways."""

    def __init__(self, way: str, **options) -> None:
        super().__init__()
        self.way = way
        last = {"include_last_offset": True} if "last" in way else {}
        self.bag = nn.EmbeddingBag(TOKENS, 3, **last, **options)
        self.weighted = "weights" in way

    def forward(self, table: Tensor) -> Tensor:
        table, lengths = table[:, :-1], table[:, -1]
        weights = (table + 1).double().sin() if self.weighted else None
        if "table" in self.way:
            return self.bag(table, per_sample_weights=weights).tanh()
        taken = torch.arange(table.shape[1]) < lengths.unsqueeze(1)
        ends = lengths.cumsum(0)
        offsets = torch.cat([torch.zeros(1, dtype=torch.long), ends])
        weights = weights[taken] if self.weighted else None
        if not self.bag.include_last_offset:
            offsets = offsets[:-1]
        return self.bag(table[taken], offsets, per_sample_weights=weights).tanh()


def table() -> Tensor:
    """Few tokens, so that an example repeats some; how many count comes last."""
    with seeded(21):
        tokens = torch.randint(4, (len(LENGTHS), 5))
    return torch.cat([tokens, torch.tensor(LENGTHS).unsqueeze(1)], dim=1)


MODES = ["sum", "mean", "max"]
WAYS = ["table", "offsets", "offsets and the last"]
CASES = [
    *(
        (way, mode, padding)
        for way in WAYS
        for mode in ("sum", "mean", "max")
        for padding in (0, 9)
    ),
    *((f"{way}, weights", "sum", padding) for way in WAYS for padding in (0, 9)),
]


@pytest.mark.parametrize(("way", "mode", "padding"), CASES)
def test_gradients_equal_the_per_example_loop(way, mode, padding):
    options = {"padding_idx": padding} if padding < TOKENS else {}
    with seeded(22):
        model = Bags(way, mode=mode, **options).double()
    coverage, found = gradients_of(model, table())
    assert isinstance(found["bag"], IndexedGradient)
    check_gradients_of(model, table())
    check_all_counted(coverage, model)
    assert coverage.share == 1


@pytest.mark.parametrize(("way", "mode", "padding"), CASES)
def test_the_output_stays_the_same(way, mode, padding):
    options = {"padding_idx": padding} if padding < TOKENS else {}
    with seeded(23):
        model = Bags(way, mode=mode, **options).double()
    layers = coverage_of(model, table()).layers
    passed = ForwardPass(model, layers, lambda: model(table()))
    assert_close(passed.outputs, model(table()))


@pytest.mark.parametrize(("way", "mode", "padding"), CASES)
def test_rows_that_are_looked_up_can_be_differentiated_twice(way, mode, padding):
    options = {"padding_idx": padding} if padding < TOKENS else {}
    with seeded(27):
        model = Bags(way, mode=mode, **options).double()
    kernel, expected = F.embedding_bag, model(table())
    with looked_up():
        found = model(table())
    assert F.embedding_bag is kernel
    assert_close(found, expected)
    (gradient,) = torch.autograd.grad(found.sin().sum(), model.bag.weight, create_graph=True)
    (once,) = torch.autograd.grad(expected.sin().sum(), model.bag.weight)
    assert_close(gradient, once)
    torch.autograd.grad(gradient.square().sum(), model.bag.weight)


def test_what_rescales_its_rows_keeps_torch_s_kernel():
    with seeded(28):
        bag = nn.EmbeddingBag(TOKENS, 3, max_norm=0.1).double()
    tokens = table()[:, :-1]
    with looked_up():
        found = bag(tokens)
    assert_close(found, bag(tokens))


def test_bags_that_are_all_empty_have_no_gradient():
    with seeded(24):
        model = Bags("offsets").double()
    coverage = coverage_of(model, table())
    assert coverage.share == 1
    empty = table()[:2].clone()
    empty[:, -1] = 0
    passed = ForwardPass(model, coverage.layers, lambda: model(empty), examples=2)
    outputs = passed.output_gradients(passed.outputs.sum(1), last=True)
    found = passed.gradients(passed.inputs(), outputs)["bag"]
    assert torch.equal(found.squared_norms(), torch.zeros(2).double())
    assert torch.equal(found.dense(), torch.zeros(2, 1, 3, TOKENS).double())


def test_covariances_are_those_of_weighted_rows():
    with seeded(25):
        model = Bags("table", mode="mean").double()
    activation, pseudo_gradient = check_covariances(model, table(), "bag")
    tokens = table()[:, :-1]
    counts = torch.bincount(tokens.flatten(), minlength=TOKENS)
    assert_close(activation[0], counts.double() / 4)
    summed = model.bag(tokens).detach().requires_grad_()
    values = torch.sin(summed.tanh() * (1 + torch.arange(3)))
    (gradients,) = torch.autograd.grad(values.sum(), summed)
    # Five positions, a fifth of the gradient each.
    assert_close(pseudo_gradient[0], gradients.T @ gradients / 5 / 4)


def test_a_bag_may_serve_all_examples():
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bag, self.last = nn.EmbeddingBag(TOKENS, 4), nn.Linear(4, 2)

        def forward(self, values: Tensor) -> Tensor:
            return self.last(values + self.bag(torch.tensor([[0, 1]])))

    with seeded(26):
        model = Shared().double()
    assert check_gradients_of(model, normal(3, 4)).share == 1


@pytest.mark.parametrize("option", ["max_norm", "scale_grad_by_freq", "sparse"])
def test_options_that_change_the_gradient_are_named(option):
    model = nn.Sequential(nn.EmbeddingBag(TOKENS, 3, **{option: True}), nn.Linear(3, 2))
    tokens = torch.tensor([[0, 1], [2, 3]])
    coverage = find_layers(model, lambda: model(tokens), examples=2, bare=1000)
    assert [layer.name for layer in coverage.layers] == ["1"]
    assert f"EmbeddingBag with {option.split('_grad')[0]}" in coverage.unattributed[0].reason
