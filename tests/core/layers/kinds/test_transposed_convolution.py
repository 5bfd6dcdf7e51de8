"""Transposed convolutions of one to three dimensions."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from sourcetrace.core.curvature.covariance import RunningCovariances
from sourcetrace.core.curvature.covariance_terms import CovarianceTerms
from tests.core.layers.checks import (
    check_all_counted,
    check_covariances,
    check_gradients_of,
    normal,
    passed,
    sum_of_sines,
)
from tests.tiny import assert_close, seeded

KINDS = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[nn.Module, Tensor]:
    """Every kind of transposed convolution, output paddings beyond the stride included."""
    space = draw(st.integers(1, 3))
    groups = draw(st.integers(1, 2))
    stride = draw(st.tuples(*[st.integers(1, 3)] * space))
    dilation = draw(st.tuples(*[st.integers(1, 3)] * space))
    more = [st.integers(0, max(both) - 1) for both in zip(stride, dilation, strict=True)]
    module = KINDS[space](
        groups * draw(st.integers(1, 2)),
        groups * draw(st.integers(1, 2)),
        draw(st.tuples(*[st.integers(1, 3)] * space)),
        stride=stride,
        padding=draw(st.tuples(*[st.integers(0, 1)] * space)),
        output_padding=draw(st.tuples(*more)),
        groups=groups,
        bias=draw(st.booleans()),
        dilation=dilation,
    ).double()
    with seeded(draw(st.integers(0, 99))):
        for parameter in module.parameters():
            nn.init.normal_(parameter)
        return module, normal(3, module.in_channels, *(4, 3, 3)[:space])


@settings(max_examples=60, derandomize=True, deadline=None, database=None)
@given(convolutions())
def test_gradients_equal_the_per_example_loop(drawn):
    module, inputs = drawn
    model = nn.Sequential(module)
    coverage = check_gradients_of(model, inputs)
    check_all_counted(coverage, model)
    assert coverage.share == 1


@settings(max_examples=20, derandomize=True, deadline=None, database=None)
@given(convolutions())
def test_the_matrix_is_turned_back_into_the_parameters(drawn):
    module, inputs = drawn
    model = nn.Sequential(module)
    coverage, _ = passed(model, inputs)
    parameters = dict(model.named_parameters())
    for layer in coverage.layers:
        matrix = layer.weight_matrix(parameters)
        found = layer.parameter_tensors(torch.stack([matrix, 2 * matrix]), parameters)
        for name, values in found.items():
            assert torch.equal(values, torch.stack([parameters[name], 2 * parameters[name]]))


class Sized(nn.Module):
    """Asks for a size of the output."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(2, 3, 3, stride=2, padding=1)

    def forward(self, values: Tensor) -> Tensor:
        return self.up(values, output_size=[6, 8]).tanh()


def test_an_output_of_a_given_size():
    with seeded(71):
        model, inputs = Sized().double(), normal(3, 2, 3, 4)
    check_gradients_of(model, inputs)


def test_without_overlap_it_is_a_linear_layer_at_every_pixel():
    """Which a kernel as large as its stride is: all of gradients, A and G are its."""
    with seeded(72):
        up = nn.ConvTranspose2d(3, 2, 2, stride=2, bias=False).double()
        inputs = normal(4, 3, 2, 3)
    linear = nn.Linear(3, 8, bias=False).double()
    linear.weight.data = up.weight.detach().movedim(1, -1).flatten(1).T.clone()

    def run(values: Tensor) -> Tensor:
        patches = linear(values.movedim(1, -1)).unflatten(-1, (2, 2, 2))  # [N, H, W, kH, kW, C]
        return patches.permute(0, 5, 1, 3, 2, 4).reshape(len(values), 2, 4, 6).tanh()

    model = nn.Sequential(up, nn.Tanh())
    assert_close(model(inputs), run(inputs))
    found = check_covariances(model, inputs, "0")
    coverage, captured = passed(nn.ModuleDict({"0": linear}), inputs, run)
    outputs = captured.output_gradients(sum_of_sines(captured.outputs), last=True)
    running = RunningCovariances()
    (layer,) = coverage.layers
    terms = CovarianceTerms.of(layer, captured.inputs()["0"], outputs["0"])
    running.add({"0": [terms]})
    for one, other in zip(found, running.sums()["0"].compute(), strict=True):
        assert_close(one, other)


@pytest.mark.parametrize("space", [1, 2, 3])
def test_a_bias_s_block_is_the_covariance_of_its_gradient(space):
    with seeded(73):
        module = KINDS[space](2, 3, 2).double()
        inputs = normal(4, 2, *(4, 3, 2)[:space])
    model = nn.Sequential(module, nn.Tanh())
    activation, pseudo_gradient = check_covariances(model, inputs, "0.bias")
    assert torch.equal(activation, torch.ones(1, 1, 1).double())
    gradients = torch.stack(
        [
            torch.autograd.grad(sum_of_sines(model(one)).sum(), module.bias)[0]
            for one in inputs.split(1)
        ]
    )
    assert_close(pseudo_gradient[0], gradients.T @ gradients / 4)
