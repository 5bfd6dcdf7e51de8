"""nn.MultiheadAttention against autograd, and against four linear layers with its weights."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812, the name everybody reads
from torch import Tensor, nn

from sourcetrace.core.gradients.capture import ForwardPass
from sourcetrace.core.layers.discovery import find_layers
from sourcetrace.core.layers.fused_kernels import without_fused_kernels
from sourcetrace.errors import InputError
from tests.core.layers.checks import (
    check_all_counted,
    check_covariances,
    check_gradients_of,
    coverage_of,
    gradients_of,
    normal,
)
from tests.tiny import assert_close, seeded


class Attends(nn.Module):
    """Attention over the first positions of each example, as queries, keys and values.

    Examples come first, [N, 5, 10]; `cross` takes keys of 3 positions and other features.
    """

    def __init__(self, *, cross: str = "", mask: str = "", weights: bool = False, **options):
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, **options)
        self.batch_first = options.get("batch_first", False)
        self.cross, self.mask, self.weights = cross, mask, weights

    def forward(self, values: Tensor) -> Tensor:
        query = values[..., :4]
        key = value = query
        if self.cross:
            key = value = values[:, :3, 2 : 2 + (self.attention.kdim or 4)]
            if self.cross == "value":
                value = values[:, :3, 1 : 1 + (self.attention.vdim or 4)]
        options = {"need_weights": self.weights}
        if self.mask == "padding":
            options["key_padding_mask"] = torch.arange(key.shape[1]) >= key.shape[1] - 1
            options["key_padding_mask"] = options["key_padding_mask"].expand(len(key), -1)
        if self.mask == "causal":
            shape = (query.shape[1], key.shape[1])
            options["attn_mask"] = torch.ones(shape, dtype=torch.bool).triu(1)
        if not self.batch_first:
            query, key, value = (one.transpose(0, 1) for one in (query, key, value))
        if not self.cross:
            key = value = query  # the same object: torch projects all three at once
        outputs, _ = self.attention(query, key, value, **options)
        return outputs if self.batch_first else outputs.transpose(0, 1)


def prepared(**options) -> tuple[nn.Module, Tensor]:
    with seeded(61):
        model = Attends(**options).double().eval()
        for parameter in model.parameters():
            nn.init.normal_(parameter)
        return model, normal(4, 5, 10)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("mask", ["", "padding", "causal"])
@pytest.mark.parametrize("cross", ["", "key", "value"])
def test_packed_gradients_equal_the_per_example_loop(cross, mask, batch_first):
    model, values = prepared(cross=cross, mask=mask, batch_first=batch_first)
    coverage = check_gradients_of(model, values)
    names = {layer.name: layer.shape for layer in coverage.layers}
    assert names == {"attention.in_proj": (3, 4, 5), "attention.out_proj": (1, 4, 5)}
    check_all_counted(coverage, model)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("weights", [False, True])
def test_separate_gradients_equal_the_per_example_loop(weights, bias, batch_first):
    model, values = prepared(
        cross="value", kdim=3, vdim=5, bias=bias, weights=weights, batch_first=batch_first
    )
    coverage = check_gradients_of(model, values)
    shapes = {
        "attention.q_proj": (1, 4, 4),
        "attention.k_proj": (1, 4, 3),
        "attention.v_proj": (1, 4, 5),
        "attention.out_proj": (1, 4, 4 + bias),
    }
    if bias:  # one bias for three weights
        shapes = {
            "attention.q_proj_weight": (1, 4, 4),
            "attention.k_proj_weight": (1, 4, 3),
            "attention.v_proj_weight": (1, 4, 5),
            "attention.in_proj_bias": (3, 4, 1),
            "attention.out_proj": (1, 4, 5),
        }
    assert {layer.name: layer.shape for layer in coverage.layers} == shapes
    check_all_counted(coverage, model)


class Spelled(nn.Module):
    """The same self-attention with four linear layers."""

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        self.projections = nn.ModuleList(nn.Linear(4, 4).double() for _ in range(3))
        self.output = nn.Linear(4, 4).double()
        parts = zip(
            self.projections,
            attention.in_proj_weight.detach().chunk(3),
            attention.in_proj_bias.detach().chunk(3),
            strict=True,
        )
        for linear, weight, bias in parts:
            linear.weight.data, linear.bias.data = weight.clone(), bias.clone()
        self.output.load_state_dict(attention.out_proj.state_dict())

    def forward(self, values: Tensor) -> Tensor:
        query, key, value = (
            linear(values[..., :4]).unflatten(2, (2, 2)).transpose(1, 2)
            for linear in self.projections
        )
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.output(mixed.transpose(1, 2).flatten(2))


def test_covariances_are_those_of_the_projections_as_linear_layers():
    model, values = prepared()
    same = Spelled(model.attention)
    assert_close(model(values), same(values))
    activation, pseudo_gradient = check_covariances(model, values, "attention.in_proj")
    for group in range(3):
        expected = check_covariances(same, values, f"projections.{group}")
        assert_close(activation[group : group + 1], expected[0])
        assert_close(pseudo_gradient[group : group + 1], expected[1])
    found = check_covariances(model, values, "attention.out_proj")
    expected = check_covariances(same, values, "output")
    assert_close(found[0], expected[0])
    assert_close(found[1], expected[1])


@pytest.mark.parametrize("options", [{"add_bias_kv": True}, {"add_zero_attn": True}])
def test_attention_to_more_than_its_inputs_is_named(options):
    model = nn.ModuleDict({"one": Attends(**options), "two": nn.Linear(4, 2)})
    coverage = coverage_of(model, torch.randn(3, 5, 10), lambda v: model["two"](model["one"](v)))
    assert [layer.name for layer in coverage.layers] == ["two"]
    assert all("add_bias_kv or add_zero_attn" in one.reason for one in coverage.unattributed)
    check_all_counted(coverage, model)


@pytest.mark.parametrize("frozen", ["in_proj_weight", "in_proj_bias", "out_proj.weight"])
def test_a_frozen_part_leaves_the_rest(frozen):
    model, values = prepared()
    model.attention.get_parameter(frozen).requires_grad_(False)
    coverage = check_gradients_of(model, values)
    assert [one.name for one in coverage.unattributed] == [f"attention.{frozen}"]
    check_all_counted(coverage, model)


def test_a_subclass_is_named_with_its_projections():
    class Other(nn.MultiheadAttention):
        pass

    model = nn.ModuleList([Other(4, 2, batch_first=True), nn.Linear(4, 2)])
    coverage = coverage_of(
        model, torch.randn(3, 5, 4), lambda values: model[1](model[0](values, values, values)[0])
    )
    assert [layer.name for layer in coverage.layers] == ["1"]
    check_all_counted(coverage, model)


def test_torch_is_as_before_even_if_the_forward_pass_fails():
    model, values = prepared()
    linear = F.linear
    layers = coverage_of(model, values).layers
    with pytest.raises(RuntimeError):
        ForwardPass(model, layers, lambda: model(values.float()))
    assert F.linear is linear
    assert torch.backends.mha.get_fastpath_enabled()
    assert not model.attention._forward_hooks
    assert not model.attention._forward_pre_hooks


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("norm_first", [False, True])
def test_an_encoder_layer_is_attributed_whole(norm_first, batch_first):
    with seeded(62):
        layer = nn.TransformerEncoderLayer(
            4, 2, 6, batch_first=batch_first, norm_first=norm_first
        ).double()
        model = layer.eval()
        values = normal(3, 5, 4)

    def run(examples: Tensor) -> Tensor:
        if batch_first:
            return model(examples)
        return model(examples.transpose(0, 1)).transpose(0, 1)

    coverage = check_gradients_of(model, values, run)
    assert coverage.share == 1
    check_all_counted(coverage, model)


@pytest.mark.filterwarnings("ignore:enable_nested_tensor is True")
def test_an_encoder_with_padding_and_frozen_layers_is_attributed():
    with seeded(63):
        layer = nn.TransformerEncoderLayer(4, 2, 6, batch_first=True).double()
        model = nn.TransformerEncoder(layer, 2).eval()
        values = normal(3, 5, 4)
    model.layers[0].requires_grad_(False)
    padding = torch.arange(5) >= 4

    def run(examples: Tensor) -> Tensor:
        mask = padding.expand(len(examples), -1)
        return model(examples, src_key_padding_mask=mask)[:, :4]

    found = gradients_of(model, values, run)[1]
    with without_fused_kernels():
        coverage = check_gradients_of(model, values, run)
        again = gradients_of(model, values, run)[1]
    for name, gradient in again.items():
        assert_close(found[name].dense(), gradient.dense())
    assert coverage.share == pytest.approx(0.5)
    check_all_counted(coverage, model)


def test_a_decoder_layer_attends_to_another_sequence():
    with seeded(64):
        model = nn.TransformerDecoderLayer(4, 2, 6).double().eval()
        values = normal(3, 7, 4)

    def run(examples: Tensor) -> Tensor:
        target, memory = examples.transpose(0, 1).split([3, 4])
        return model(target, memory).transpose(0, 1)

    with pytest.raises(InputError, match="cannot be told apart"):
        # Three examples of three positions.
        find_layers(model, lambda: run(values), examples=3)
    coverage = check_gradients_of(model, values, run)
    assert coverage.share == 1


def test_a_single_sequence_is_named():
    model = nn.ModuleList([nn.MultiheadAttention(4, 2), nn.Linear(4, 2)])
    coverage = coverage_of(
        model, torch.randn(5, 4), lambda values: model[1](model[0](values, values, values)[0])
    )
    assert [layer.name for layer in coverage.layers] == ["1"]
    assert "single sequence" in coverage.unattributed[0].reason
    check_all_counted(coverage, model)


def test_a_call_that_the_loss_does_not_reach_adds_nothing():
    class CallsInVain(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

        def forward(self, values: Tensor) -> Tensor:
            self.attention(2 * values, values, values)
            return self.attention(values, values, values)[0]

    with seeded(3):
        model = CallsInVain().double().eval()
    check_gradients_of(model, normal(3, 5, 4))
