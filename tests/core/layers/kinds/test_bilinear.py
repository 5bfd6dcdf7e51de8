"""Bilinear layers, with two inputs a call."""

import pytest
import torch
from torch import Tensor, nn

from tests.core.layers.checks import (
    check_all_counted,
    check_covariances,
    check_gradients_of,
    normal,
    sum_of_sines,
)
from tests.tiny import assert_close, seeded


class Pairs(nn.Module):
    """Multiplies two halves of the features, twice in one pass."""

    def __init__(self, *, bias: bool, twice: bool = False) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 5)
        self.bilinear = nn.Bilinear(3, 2, 4, bias=bias)
        self.twice = twice

    def forward(self, values: Tensor) -> Tensor:
        first, second = self.linear(values).split([3, 2], dim=-1)
        outputs = self.bilinear(first, second)
        if self.twice:
            outputs = outputs + self.bilinear(input2=second.tanh(), input1=first.sin())
        return outputs.tanh()


@pytest.mark.parametrize("shape", [(4, 5), (4, 3, 5), (4, 2, 3, 5)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("twice", [True, False])
def test_gradients_equal_the_per_example_loop(shape, bias, twice):
    with seeded(61):
        model, inputs = Pairs(bias=bias, twice=twice).double(), normal(*shape)
    coverage = check_gradients_of(model, inputs)
    check_all_counted(coverage, model)
    assert coverage.share == 1


def test_covariances_are_those_of_a_linear_layer_on_products():
    with seeded(62):
        model, inputs = Pairs(bias=True).double(), normal(5, 3, 5)
    activation, pseudo_gradient = check_covariances(model, inputs, "bilinear")
    first, second = model.linear(inputs).split([3, 2], dim=-1)
    met = torch.einsum("nsi,nsj->nsij", first, second).flatten(2)
    met = torch.cat([met, torch.ones(5, 3, 1)], dim=-1).flatten(0, 1)
    assert_close(activation[0], met.mT @ met / 5)
    hidden = model.bilinear(first, second)
    (gradients,) = torch.autograd.grad(sum_of_sines(hidden.tanh()).sum(), hidden)
    gradients = gradients.flatten(0, 1)
    assert_close(pseudo_gradient[0], gradients.mT @ gradients / 5)
