"""Unrolled recurrent modules against torch's fused kernels: outputs, states, gradients."""

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from sourcetrace.core.layers.recurrent import unrolled
from tests.core.layers.checks import normal
from tests.tiny import assert_close, seeded

KINDS = {
    "tanh": (nn.RNN, {}),
    "relu": (nn.RNN, {"nonlinearity": "relu"}),
    "gru": (nn.GRU, {}),
    "lstm": (nn.LSTM, {}),
    "projected": (nn.LSTM, {"proj_size": 2}),
}
OPTIONS = [
    {"num_layers": layers, "bidirectional": both, "bias": bias, "batch_first": first}
    for layers, both, bias, first in product((1, 2), (False, True), (False, True), (False, True))
]


def tensors(value: Any) -> list[Tensor]:
    """Return the tensors of an output, a packed sequence's data among them."""
    if isinstance(value, PackedSequence):
        return [value.data]
    return (
        [value] if isinstance(value, Tensor) else [one for part in value for one in tensors(part)]
    )


def check_equal(module: nn.Module, *arguments: Any) -> None:
    """Outputs, last states and the gradients by every parameter are the same."""

    def run() -> list[Tensor]:
        outputs = tensors(module(*arguments))
        loss = sum(((1 + place) * one.sin()).sum() for place, one in enumerate(outputs))
        return [*outputs, *torch.autograd.grad(loss, list(module.parameters()))]

    fused = run()
    with unrolled():
        found = run()
    assert [one.shape for one in found] == [one.shape for one in fused]
    # Together: a ReLU may have let nothing through at the end.
    joined = (torch.cat([one.flatten() for one in each]) for each in (found, fused))
    assert_close(*joined, tolerance=1e-12)


def made(kind: str, options: dict[str, Any]) -> nn.Module:
    module_class, more = KINDS[kind]
    module = module_class(3, 4, **options, **more).double().eval()
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    return module


def states(module: nn.Module, *shape: int) -> Any:
    places = module.num_layers * (2 if module.bidirectional else 1)
    hidden = normal(places, *shape, module.proj_size or 4)
    return (hidden, normal(places, *shape, 4)) if isinstance(module, nn.LSTM) else hidden


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_layers_equal_the_fused_ones(kind, options):
    with seeded(5):
        module = made(kind, options)
        values = normal(5, 3, 3)
        check_equal(module, values)
        check_equal(module, values, states(module, 3 if not options["batch_first"] else 5))
        check_equal(module, normal(5, 3), states(module))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", OPTIONS[::2], ids=str)
@pytest.mark.parametrize("ordered", [False, True])
def test_packed_sequences_equal_the_fused_ones(kind, options, ordered):
    with seeded(6):
        module = made(kind, options)
        lengths = torch.tensor([5, 4, 2] if ordered else [2, 5, 4])
        packed = pack_padded_sequence(normal(5, 3, 3), lengths, enforce_sorted=ordered)
        check_equal(module, packed)
        check_equal(module, packed, states(module, 3))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (nn.RNNCell, {}),
        (nn.RNNCell, {"nonlinearity": "relu"}),
        (nn.GRUCell, {}),
        (nn.LSTMCell, {}),
    ],
)
def test_cells_equal_the_fused_ones(kind, options, bias):
    with seeded(7):
        cell = kind(3, 4, bias=bias, **options).double().eval()
        state = (normal(2, 4), normal(2, 4)) if kind is nn.LSTMCell else normal(2, 4)
        check_equal(cell, normal(2, 3))
        check_equal(cell, normal(2, 3), state)
        check_equal(cell, normal(3))


def test_dropout_between_layers_is_that_of_training_alone():
    with seeded(8):
        module = nn.GRU(3, 4, 2, dropout=0.5).double()
        values = normal(5, 3, 3)
        with unrolled():
            assert not torch.equal(module(values)[0], module(values)[0])
            module.eval()
            assert torch.equal(module(values)[0], module(values)[0])


def test_torchs_functions_are_put_back():
    module, values = nn.GRU(3, 4), torch.randn(5, 2, 3)
    before = torch._VF.gru

    def fails() -> None:
        with unrolled(), unrolled():
            assert torch._VF.gru is not before
            module(values.double())

    with pytest.raises(ValueError, match="dtype"):
        fails()
    assert torch._VF.gru == before
