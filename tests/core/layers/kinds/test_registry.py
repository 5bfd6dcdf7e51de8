"""A new layer type is one object given to `register`."""

import re

import pytest
import torch
from torch import Tensor, nn

from sourcetrace.core.layers import LayerType, register
from sourcetrace.core.layers.discovery import find_layers
from sourcetrace.core.layers.kinds.registry import LAYER_TYPES
from tests import REPOSITORY
from tests.core.layers.checks import (
    check_all_counted,
    check_gradients_of,
    coverage_of,
    normal,
)
from tests.tiny import seeded


class RunningSum(nn.Module):
    """A linear layer on sums of the frames so far."""

    def __init__(self, features: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(features, outputs))

    def forward(self, frames: Tensor) -> Tensor:
        return frames.cumsum(1) @ self.weight


@pytest.fixture
def registered():
    before = list(LAYER_TYPES)
    yield register
    LAYER_TYPES[:] = before


def rows(module: nn.Module, values: Tensor) -> Tensor:
    """[N, S, D] -> [N, 1, S, D]"""
    return values.unsqueeze(1)


def sums(module: nn.Module, frames: Tensor) -> Tensor:
    return rows(module, frames.cumsum(1))


def prepared() -> tuple[nn.Module, Tensor]:
    with seeded(81):
        return nn.Sequential(RunningSum(4, 3), nn.Tanh(), nn.Linear(3, 2)).double(), normal(3, 5, 4)


def test_a_registered_type_is_attributed(registered):
    model, frames = prepared()
    assert [layer.name for layer in coverage_of(model, frames).layers] == ["2"]
    registered(LayerType(RunningSum, sums, rows, transposed=True))
    coverage = check_gradients_of(model, frames)
    assert coverage.layers[0].shape == (1, 3, 4)
    check_all_counted(coverage, model)


def test_a_type_may_be_named_without_importing_it(registered):
    name = f"{RunningSum.__module__}.RunningSum"
    registered(LayerType(name, sums, rows, transposed=True))
    model, frames = prepared()
    assert coverage_of(model, frames).share == 1


class Kernel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.rand(2, 3))

    def forward(self, values: Tensor) -> Tensor:
        return values @ self.kernel.mT


def test_a_weight_of_another_name_may_meet_all_examples_in_one_dimension(registered):
    registered(LayerType(Kernel, rows, rows, names=("kernel", "")))
    model = nn.Sequential(nn.Flatten(0, 1), Kernel()).double()
    frames = torch.randn(3, 5, 3, dtype=torch.float64)
    (layer,) = find_layers(model, lambda: model(frames), examples=3, bare=0).layers
    assert layer.weight == "1.kernel"
    assert layer.alone


def test_registering_again_replaces_the_known_type(registered):
    refusing = LayerType(nn.Linear, rows, rows, refusal=lambda module: "not today")
    count = len(LAYER_TYPES)
    registered(refusing)
    assert len(LAYER_TYPES) == count
    coverage = coverage_of(nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)), torch.randn(3, 4))
    assert {one.reason for one in coverage.unattributed} == {"not today"}


def test_the_documented_example_is_right(registered, monkeypatch):
    monkeypatch.setattr(RunningSum, "__module__", "speech.model")
    model, frames = prepared()
    assert coverage_of(model, frames).share < 1
    page = (REPOSITORY / "docs" / "reference" / "layers.md").read_text()
    (code,) = [
        block for block in re.findall(r"```python\n(.*?)```", page, re.S) if "register" in block
    ]
    assert len(code.splitlines()) <= 15
    exec(code, {})
    assert check_gradients_of(model, frames).share == 1
