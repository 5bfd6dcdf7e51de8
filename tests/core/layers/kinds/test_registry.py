"""A new layer type is one object given to `register`."""

import re

import pytest
import torch
from torch import Tensor, nn

from sourcetrace.core.layers import LayerType, register
from sourcetrace.core.layers.kinds.registry import LAYER_TYPES
from tests import REPOSITORY
from tests.core.layers.checks import (
    check_all_counted,
    check_gradients_of,
    coverage_of,
    gradients_of,
    normal,
    sum_of_sines,
)
from tests.tiny import assert_close, seeded


class Scale(nn.Module):
    """Multiplies every feature by a number of its own."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(features))

    def forward(self, values: Tensor) -> Tensor:
        return values * self.weight


@pytest.fixture
def registered():
    before = list(LAYER_TYPES)
    yield register
    LAYER_TYPES[:] = before


def feature_groups(module: Scale, values: Tensor) -> Tensor:
    """[N, …, features] -> [N, features, S, 1]"""
    return values.flatten(1, -2).mT.unsqueeze(-1)


def test_a_registered_type_is_attributed(registered):
    with seeded(81):
        model = nn.Sequential(Scale(4), nn.Linear(4, 2)).double()
        values = normal(3, 5, 4)
    assert [layer.name for layer in coverage_of(model, values).layers] == ["1"]
    registered(LayerType(Scale, feature_groups, feature_groups, groups=lambda m: len(m.weight)))
    coverage = check_gradients_of(model, values)
    assert coverage.layers[0].shape == (4, 1, 1)
    check_all_counted(coverage, model)


def test_a_type_may_be_named_without_importing_it(registered):
    name = f"{Scale.__module__}.Scale"
    registered(LayerType(name, feature_groups, feature_groups, groups=lambda m: len(m.weight)))
    model = nn.Sequential(Scale(4)).double()
    assert coverage_of(model, normal(3, 5, 4)).share == 1


def test_registering_again_replaces_the_known_type(registered):
    refusing = LayerType(
        nn.Linear, feature_groups, feature_groups, refusal=lambda module: "not today"
    )
    count = len(LAYER_TYPES)
    registered(refusing)
    assert len(LAYER_TYPES) == count
    coverage = coverage_of(nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)), torch.randn(3, 4))
    assert {one.reason for one in coverage.unattributed} == {"not today"}


def test_the_documented_example_is_right(registered):
    pytest.importorskip("transformers")
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    with seeded(82):
        model = nn.Sequential(nn.Linear(3, 4), LlamaRMSNorm(4)).double()
        values = normal(3, 5, 3)
    assert coverage_of(model, values).share < 1
    page = (REPOSITORY / "docs" / "layers.md").read_text()
    (code,) = [
        block for block in re.findall(r"```python\n(.*?)```", page, re.S) if "register" in block
    ]
    assert len(code.splitlines()) <= 15
    exec(code, {})
    # The layer itself computes in float32.
    coverage, found = gradients_of(model, values)
    assert coverage.share == 1
    outputs = model(values)
    hidden = model[0](values)
    (gradients,) = torch.autograd.grad(sum_of_sines(outputs).sum(), outputs)
    scale = (hidden.square().mean(-1, keepdim=True) + model[1].variance_epsilon).rsqrt()
    expected = (gradients * hidden * scale).sum(1).reshape(3, 4, 1, 1)
    assert_close(found["1"].dense(), expected, tolerance=1e-5)
