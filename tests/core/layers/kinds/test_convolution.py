"""Convolutions of one and three dimensions; two are tested where they are captured."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.core.layers.checks import check_covariances, check_gradients_of, normal, sum_of_sines
from tests.oracles.dense import layer_inputs
from tests.tiny import assert_close, seeded

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[nn.Module, Tensor]:
    """Every kind of convolution whose kernel fits."""
    space = draw(st.integers(1, 3))
    groups = draw(st.integers(1, 2))
    sizes = [st.integers(1, 2)] * space
    padding = draw(
        st.one_of(st.tuples(*[st.integers(0, 2)] * space), st.sampled_from(["same", "valid"]))
    )
    module = CONVOLUTIONS[space](
        groups * draw(st.integers(1, 2)),
        groups * draw(st.integers(1, 2)),
        draw(st.tuples(*[st.integers(1, 3)] * space)),
        stride=1 if padding == "same" else draw(st.tuples(*sizes)),
        padding=padding,
        dilation=draw(st.tuples(*sizes)),
        groups=groups,
        bias=draw(st.booleans()),
        padding_mode=draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"])),
    ).double()
    with seeded(draw(st.integers(0, 99))):
        for parameter in module.parameters():
            nn.init.normal_(parameter)
        return module, normal(3, module.in_channels, *(5, 6, 5)[:space])


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@settings(max_examples=60, derandomize=True, deadline=None, database=None)
@given(convolutions())
def test_gradients_equal_the_per_example_loop(drawn):
    module, inputs = drawn
    check_gradients_of(nn.Sequential(module), inputs)


@pytest.mark.parametrize("space", [1, 3])
def test_covariances_equal_the_sums_of_outer_products(space):
    with seeded(31):
        module = CONVOLUTIONS[space](4, 2, 2, groups=2, padding=1, stride=2).double()
        inputs = normal(4, 4, *(4, 3, 2)[:space])
    model = nn.Sequential(module)
    activation, pseudo_gradient = check_covariances(model, inputs, "0")
    expected = 0
    for one in inputs:
        met = _patches_of(module, one)
        expected = expected + torch.einsum("gsi,gsj->gij", met, met)
    assert_close(activation, expected / len(inputs))
    outputs = model(inputs)
    (gradients,) = torch.autograd.grad(sum_of_sines(outputs).sum(), outputs)
    # Output channels of each of the two groups.
    for group, one in enumerate(gradients.flatten(2).chunk(2, dim=1)):
        expected = torch.einsum("nis,njs->ij", one, one) / len(inputs)
        assert_close(pseudo_gradient[group], expected)


def _patches_of(module: nn.Module, one: Tensor) -> Tensor:
    """Return what the weight meets in one example: the derivative of outputs by the weight."""

    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.bias = module.weight, module.bias
            self.groups = module.groups

        def forward(self, values: Tensor) -> Tensor:
            tensors = {"weight": self.weight, "bias": self.bias}
            outputs = torch.func.functional_call(module, tensors, (values,))
            return outputs[0].flatten(1).T  # [S, C_out]

    return layer_inputs(Flat(), one.unsqueeze(0))
