"""Subclasses of known layers are theirs while they compute the same."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812, the name everybody reads
from torch import Tensor, nn

from sourcetrace.core.layers import LayerType, register
from sourcetrace.core.layers.kinds.registry import LAYER_TYPES, kind_of
from tests.core.layers.checks import check_all_counted, check_gradients_of, coverage_of, normal
from tests.tiny import seeded


class Small(nn.Linear):
    """Is made and printed in another way."""

    def __init__(self, features: int) -> None:
        super().__init__(features, 2)
        self.scale = 3.0

    def reset_parameters(self) -> None:
        nn.init.uniform_(self.weight, -0.1, 0.1)
        nn.init.zeros_(self.bias)

    def extra_repr(self) -> str:
        return "small"

    def norm(self) -> Tensor:
        return self.weight.norm()


class Named:
    """Has nothing to do with computing."""

    label = "a"


class Mixed(Named, nn.Conv1d):
    """Has another parent before the known one."""


class Frozen(nn.BatchNorm1d):
    """Keeps its statistics in training, too."""

    def train(self, mode: bool = True) -> "Frozen":
        return super().train(False) if mode else super().train(mode)


class Older(nn.LayerNorm):
    """Has TensorFlow's eps."""

    def __init__(self, size: int) -> None:
        super().__init__(size, eps=1e-12)


SAME = {
    "linear": (lambda: Small(4), (4,)),
    "of a subclass": (lambda: type("Smaller", (Small,), {})(4), (4,)),
    "convolution": (lambda: Mixed(4, 2, 2), (4, 3)),
    "batch norm": (lambda: Frozen(4), (4,)),
    "layer norm": (lambda: Older(4), (4,)),
}


@pytest.mark.parametrize("name", SAME)
def test_a_subclass_that_computes_the_same_is_attributed(name):
    build, shape = SAME[name]
    with seeded(91):
        model, inputs = nn.Sequential(build()).double().eval(), normal(3, *shape)
    coverage = check_gradients_of(model, inputs)
    check_all_counted(coverage, model)
    assert coverage.share == 1


def doubled(self: nn.Module, values: Tensor) -> Tensor:
    return 2 * F.linear(values, self.weight, self.bias)


OTHERS = {
    "forward": (nn.Linear, {"forward": doubled}),
    "_conv_forward": (nn.Conv1d, {"_conv_forward": lambda *_: torch.zeros(1)}),
    "weight": (nn.Linear, {"weight": property(lambda self: self._parameters["weight"] * 2)}),
    "__call__": (nn.Linear, {"__call__": lambda self, values: self.forward(2 * values)}),
    "__getattr__": (nn.Linear, {"__getattr__": lambda self, name: None}),
}


@pytest.mark.parametrize("name", OTHERS)
def test_one_that_has_its_own_of_what_is_computed_with_is_not(name):
    parent, own = OTHERS[name]
    other = type("Other", (parent,), own)
    module = parent(2, 2, 1) if parent is nn.Conv1d else parent(2, 2)
    assert kind_of(module) is not None
    module.__class__ = other
    assert kind_of(module) is None


def test_what_it_has_of_its_own_is_said():
    other = type("Other", (nn.Linear,), {"forward": doubled})
    model = nn.Sequential(other(4, 3), nn.Linear(3, 2))
    coverage = coverage_of(model, torch.zeros(2, 4))
    assert coverage.unattributed[0].reason == (
        "Other has its own forward: it may compute something else than Linear"
    )
    check_all_counted(coverage, model)


@pytest.mark.parametrize("order", [1, -1])
def test_a_class_s_own_kind_goes_before_its_parent_s(order):
    before = list(LAYER_TYPES)
    parent = LayerType(Small, lambda *_: torch.zeros(1), lambda *_: torch.zeros(1))
    child = LayerType(type("Child", (Small,), {}), parent.positions, parent.positions)
    try:
        for kind in (parent, child)[::order]:
            register(kind)
        assert kind_of(child.module(3)) is child
        assert kind_of(parent.module(3)) is parent
    finally:
        LAYER_TYPES[:] = before


def test_a_subclass_of_transformers_is_attributed():
    pytest.importorskip("transformers")
    from transformers.models.poolformer.modeling_poolformer import PoolFormerGroupNorm

    with seeded(92):
        model, inputs = nn.Sequential(PoolFormerGroupNorm(4)).double(), normal(3, 4, 2, 2)
    assert check_gradients_of(model, inputs).share == 1


def test_a_weight_made_of_other_parameters_is_named():
    with pytest.warns(FutureWarning, match="weight_norm"):
        module = nn.utils.weight_norm(nn.Linear(4, 3))
    model = nn.Sequential(module, nn.Linear(3, 2))
    coverage = coverage_of(model, torch.zeros(2, 4))
    assert {one.name for one in coverage.unattributed} == {"0.bias", "0.weight_g", "0.weight_v"}
    reason = coverage.unattributed[0].reason
    assert reason.startswith("Linear whose own parameters are bias, weight_g, weight_v")
    assert "weight_norm" in reason
    check_all_counted(coverage, model)
