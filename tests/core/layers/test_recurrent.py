"""Recurrent modules and cells against one autograd call an example."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils.checkpoint import checkpoint

from sourcetrace.core.curvature.gauss_newton import gauss_newton_products
from sourcetrace.core.gradients.capture import ForwardPass
from sourcetrace.core.layers.discovery import find_layers
from tests.core.layers.checks import (
    check_all_counted,
    check_covariances,
    check_gradients_of,
    coverage_of,
    normal,
    passed,
    sum_of_sines,
)
from tests.core.layers.test_unrolled import KINDS
from tests.tiny import assert_close, seeded


class Reads(nn.Module):
    """Sequences [N, 5, 3] through recurrent layers.

    `packed` takes an example's length from its data, `state` starts from a learned one.
    """

    def __init__(
        self, kind: str, *, packed: bool = False, state: bool = False, **options: Any
    ) -> None:
        super().__init__()
        module_class, more = KINDS[kind]
        self.layers = module_class(3, 4, **options, **more)
        self.start = nn.Linear(3, 4) if state else None
        self.packed = packed
        self.double().eval()
        for parameter in self.parameters():
            nn.init.normal_(parameter)

    def forward(self, values: Tensor) -> Tensor:
        given = values if self.layers.batch_first else values.transpose(0, 1)
        state = () if self.start is None else (self.initial(values),)
        if not self.packed:
            outputs = self.layers(given, *state)[0]
            return outputs if self.layers.batch_first else outputs.transpose(0, 1)
        lengths = 1 + (values[:, 0, 0].abs() * 1000).long() % 5
        first = self.layers.batch_first
        read, end = self.layers(
            pack_padded_sequence(given, lengths, batch_first=first, enforce_sorted=False),
            *state,
        )
        padded, _ = pad_packed_sequence(read, batch_first=True, total_length=5)
        hidden = end[0] if isinstance(end, tuple) else end
        return torch.cat([padded.flatten(1), hidden.transpose(0, 1).flatten(1)], 1)

    def initial(self, values: Tensor) -> Any:
        places = self.layers.num_layers * (1 + self.layers.bidirectional)
        hidden = self.start(values[:, 0]).tanh().expand(places, -1, -1).contiguous()
        if not isinstance(self.layers, nn.LSTM):
            return hidden
        return hidden[..., : self.layers.proj_size or None].contiguous(), hidden


OPTIONS = [
    {},
    {"bias": False, "batch_first": True},
    {"num_layers": 2, "bidirectional": True, "batch_first": True},
    {"bidirectional": True, "state": True},
    {"packed": True, "num_layers": 2, "bidirectional": True, "state": True},
    {"packed": True, "batch_first": True, "bias": False},
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_gradients_equal_the_per_example_loop(kind, options):
    with seeded(31):
        model, values = Reads(kind, **options), normal(6, 5, 3)
    coverage = check_gradients_of(model, values)
    check_all_counted(coverage, model)
    assert coverage.unattributed == ()


def test_every_weight_is_a_layer_with_its_own_bias():
    model = Reads("projected", num_layers=2)
    coverage = coverage_of(model, normal(3, 5, 3))
    assert {layer.name: layer.shape for layer in coverage.layers} == {
        "layers.ih_l0": (1, 16, 4),
        "layers.hh_l0": (1, 16, 3),
        "layers.hr_l0": (1, 4 // 2, 4),
        "layers.ih_l1": (1, 16, 3),
        "layers.hh_l1": (1, 16, 3),
        "layers.hr_l1": (1, 2, 4),
    }


@pytest.mark.parametrize("kind", ["gru", "lstm"])
@pytest.mark.parametrize("frozen", ["weight_hh_l0", "bias_hh_l0", "bias_ih_l0"])
def test_a_frozen_part_leaves_the_others_attributed(kind, frozen):
    with seeded(32):
        model, values = Reads(kind), normal(4, 5, 3)
    model.layers.get_parameter(frozen).requires_grad_(False)
    coverage = check_gradients_of(model, values)
    assert [one.name for one in coverage.unattributed] == [f"layers.{frozen}"]


class Steps(nn.Module):
    """A cell by hand, [N, 5, 3], and a second one on top."""

    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.lower, self.upper = kind(3, 4), kind(4, 4)
        self.double().eval()
        for parameter in self.parameters():
            nn.init.normal_(parameter)

    def forward(self, values: Tensor) -> Tensor:
        lower = upper = None
        for step in values.unbind(1):
            lower = self.lower(step, lower)
            hidden = lower[0] if isinstance(lower, tuple) else lower
            upper = self.upper(hidden, upper)
        return upper[0] if isinstance(upper, tuple) else upper


@pytest.mark.parametrize("kind", [nn.RNNCell, nn.GRUCell, nn.LSTMCell])
def test_cells_equal_the_per_example_loop(kind):
    with seeded(33):
        model, values = Steps(kind), normal(4, 5, 3)
    coverage = check_gradients_of(model, values)
    assert [layer.name for layer in coverage.layers] == [
        "lower.ih",
        "lower.hh",
        "upper.ih",
        "upper.hh",
    ]


def test_weights_that_two_modules_share_have_the_sum_of_both():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.GRU(4, 4), nn.GRU(4, 4)
            self.second.weight_hh_l0 = self.first.weight_hh_l0
            self.head = nn.Linear(4, 12)
            self.head.weight = self.first.weight_ih_l0

        def forward(self, values: Tensor) -> Tensor:
            hidden = self.second(self.first(values.transpose(0, 1))[0])[0]
            return self.head(hidden.transpose(0, 1))

    with seeded(34):
        model, values = Twice().double().eval(), normal(4, 5, 4)
    coverage = check_gradients_of(model, values)
    assert coverage.tied == {
        "first.weight_ih_l0": ("head.weight",),
        "first.weight_hh_l0": ("second.weight_hh_l0",),
    }


def test_padding_has_no_gradient_and_no_say_in_the_curvature():
    with seeded(35):
        model = Reads("lstm", packed=True, num_layers=2)
        values = normal(6, 5, 3)
    _, forward = passed(model, values)
    gradients = forward.output_gradients(sum_of_sines(forward.outputs), last=True)
    lengths = 1 + (values[:, 0, 0].abs() * 1000).long() % 5
    behind = torch.arange(5) >= lengths.unsqueeze(1)
    assert 0 < int(behind.sum()) < 30
    for name in ("layers.ih_l0", "layers.hh_l0", "layers.ih_l1"):
        count = forward.inputs()[name].shape[2]
        here = behind[:, :count]
        assert not gradients[name][:, 0, :count][here].any()
        assert bool(gradients[name][:, 0, :count][~here].any(-1).all())
    check_covariances(model, values, "layers.hh_l1")


def test_recomputed_activations_leave_the_gradients_alone():
    class Recomputes(Reads):
        def forward(self, values: Tensor) -> Tensor:
            return checkpoint(super().forward, values, use_reentrant=False)

    with seeded(36):
        model, values = Recomputes("gru", batch_first=True), normal(4, 5, 3)
    check_gradients_of(model, values)


class Words(nn.Module):
    """Words of letters: a sequence is no example."""

    def __init__(self) -> None:
        super().__init__()
        self.letters = nn.GRU(3, 4, batch_first=True)

    def forward(self, values: Tensor) -> Tensor:
        words = values.reshape(3 * len(values), -1, 3)
        return self.letters(words)[0][:, -1].reshape(len(values), -1)


def test_layers_that_read_other_sequences_than_examples_take_passes_alone():
    model = nn.Sequential(nn.Linear(3, 3), Words()).double()
    run = partial(model, normal(2, 6, 3))
    coverage = find_layers(model, run, examples=2, bare=0)
    assert [layer.name for layer in coverage.alone] == ["1.letters.ih_l0", "1.letters.hh_l0"]
    coverage = find_layers(model, run, examples=2)
    assert {one.reason for one in coverage.unattributed} == {
        "called with 6 sequences for a batch of 2 examples"
    }


def test_a_single_sequence_is_named():
    class Alone(Reads):
        def forward(self, values: Tensor) -> Tensor:
            return self.start(torch.stack([self.layers(one)[0] for one in values])[..., :3])

    coverage = coverage_of(Alone("gru", state=True), normal(3, 5, 3))
    assert [layer.name for layer in coverage.layers] == ["start"]
    assert {one.reason for one in coverage.unattributed} == {
        "called with a single sequence instead of a batch of them"
    }


class Heads(nn.Module):
    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers, self.head = layers, nn.Linear(4, 2)

    def forward(self, values: Tensor) -> Tensor:
        return self.head(self.layers(values)[0])


def test_a_subclass_is_known_while_it_computes_the_same():
    class Doubles(nn.GRU):
        def forward(self, values: Tensor, hx: Tensor | None = None) -> Any:
            outputs, end = super().forward(values, hx)
            return 2 * outputs, end

    class Named(nn.GRU):
        def __init__(self) -> None:
            super().__init__(3, 4, batch_first=True)

    values = normal(3, 5, 3)
    coverage = check_gradients_of(Heads(Doubles(3, 4, batch_first=True)).double(), values)
    assert {one.reason for one in coverage.unattributed} == {"Doubles is not supported"}
    assert check_gradients_of(Heads(Named()).double(), values).unattributed == ()


def test_weights_that_are_made_of_others_are_named():
    model = Heads(nn.GRU(3, 4, batch_first=True)).double()
    parametrizations.weight_norm(model.layers, "weight_hh_l0")
    coverage = check_gradients_of(model, normal(3, 5, 3))
    assert [layer.name for layer in coverage.layers] == ["head"]
    assert {one.reason for one in coverage.unattributed} == {
        "ParametrizationList is not supported",
        "ParametrizedGRU whose parameters are others (weight_hh_l0)",
    }


class _Squares:
    """The training loss is half the square of the outputs: its Hessian is the identity."""

    def forward(self, model: nn.Module, batch: Tensor) -> Tensor:
        return model(batch)

    def train_loss(self, outputs: Tensor, batch: Tensor) -> Tensor:
        return outputs.flatten(1).square().sum(1) / 2


@pytest.mark.parametrize("options", [{}, {"packed": True, "bidirectional": True}], ids=str)
def test_exact_products_know_recurrent_layers(options):
    with seeded(37):
        model, values = Reads("lstm", **options), normal(3, 5, 3)
    layers = coverage_of(model, values).layers
    names = [name for layer in layers for name in layer.parameters]
    parameters = dict(model.named_parameters())
    with seeded(38):
        moved = {name: normal(2, *parameters[name].shape) for name in names}
    directions = {
        layer.name: torch.stack(
            [layer.weight_matrix({name: one[row] for name, one in moved.items()}) for row in (0, 1)]
        )
        for layer in layers
    }
    found = gauss_newton_products(model, layers, _Squares(), values, directions, examples=3)
    outputs = model(values).flatten()
    rows = [
        torch.autograd.grad(one, list(parameters.values()), retain_graph=True) for one in outputs
    ]
    jacobian = torch.stack([torch.cat([one.flatten() for one in row]) for row in rows])
    for row in (0, 1):
        vector = torch.cat([moved[name][row].flatten() for name in parameters])
        product = jacobian.T @ (jacobian @ vector)
        parts = product.split([one.numel() for one in parameters.values()])
        named = {
            name: part.reshape(parameters[name].shape)
            for name, part in zip(parameters, parts, strict=True)
        }
        for layer in layers:
            assert_close(found[layer.name][row], layer.weight_matrix(named))


def test_a_pass_leaves_the_module_as_it_was():
    model, values = Reads("gru"), normal(3, 5, 3)
    before = torch._VF.gru
    coverage = coverage_of(model, values)
    ForwardPass(model, coverage.layers, partial(model, values), examples=3)
    assert torch._VF.gru == before
    assert not model.layers._forward_hooks
    assert not model.layers._forward_pre_hooks
