"""Modules that multiply every feature by a number, which nobody lists, and PReLU."""

import pytest
import torch
from torch import Tensor, nn

from tests.core.layers.checks import (
    check_all_counted,
    check_covariances,
    check_gradients_of,
    coverage_of,
    gradients_of,
    normal,
    sum_of_sines,
)
from tests.oracles.dense import named_gradients
from tests.tiny import assert_close, seeded


class Weighted(nn.Module):
    """A weight, perhaps a bias, and any use of them."""

    def __init__(self, use, *shape, bias=False):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(shape))
        if bias:
            self.bias = nn.Parameter(torch.randn(shape))
        self.use = use

    def forward(self, values, **options):
        return self.use(self, values, **options)


def rms(values: Tensor, eps: float = 1e-6) -> Tensor:
    return values * (values.square().mean(-1, keepdim=True) + eps).rsqrt()


def channels_first(module: nn.Module, values: Tensor) -> Tensor:
    normalised = rms(values.movedim(1, -1)) * module.weight + module.bias
    return normalised.movedim(-1, 1)


FOUND = {
    "weight": (lambda m, x: m.weight * rms(x), (4,), False, (3, 4)),
    "one and weight": (lambda m, x: (1 + m.weight) * rms(x), (4,), False, (3, 4)),
    "with a bias": (lambda m, x: m.weight * rms(x) + m.bias, (4,), True, (2, 3, 4)),
    "with a residual": (lambda m, x: x + m.weight * x.tanh(), (4,), False, (4,)),
    "of two dimensions": (lambda m, x: m.weight * x.sin(), (3, 4), False, (2, 3, 4)),
    "added at every position": (lambda m, x: x + m.weight, (3, 4), False, (3, 4)),
    "channels first": (channels_first, (4,), True, (4, 3, 2)),
    "as many channels as features": (channels_first, (4,), True, (4, 4)),
    "broadcast over places": (lambda m, x: m.weight * rms(x), (1, 1, 4), False, (2, 3, 4)),
    "broadcast channels": (lambda m, x: m.weight * x.sin(), (1, 4, 1, 1), False, (4, 3, 2)),
    "some dimensions": (lambda m, x: m.weight * x + m.bias, (2, 1, 4), True, (2, 3, 4)),
    "no dimension": (lambda m, x: m.weight * x.sin(), (), False, (3, 4)),
    "added to a token": (lambda m, x: x + m.weight, (1, 3, 4), False, (3, 4)),
    "one number": (lambda m, x: m.weight * x.sin(), (1,), False, (3, 4)),
}


@pytest.mark.parametrize("name", FOUND)
def test_gradients_equal_the_per_example_loop(name):
    use, shape, bias, inputs = FOUND[name]
    with seeded(31):
        own = Weighted(use, *shape, bias=bias)
        model, values = nn.Sequential(nn.Tanh(), own, nn.Tanh()).double(), normal(5, *inputs)
    coverage = check_gradients_of(model, values)
    check_all_counted(coverage, model)
    assert coverage.share == 1
    assert coverage.layers[0].shape == (own.weight.numel(), 1, 1 + bias)


@pytest.mark.parametrize("names", [("gamma",), ("bias",), ("alpha", "beta"), ("beta", "alpha")])
def test_parameters_may_have_any_names(names):
    """Which of two is the weight is seen, too."""

    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name in sorted(names):
                setattr(self, name, nn.Parameter(torch.randn(4)))

        def forward(self, values: Tensor) -> Tensor:
            scaled = values.sin() * getattr(self, names[0])
            return scaled + getattr(self, names[1]) if names[1:] else scaled

    with seeded(37):
        model, values = nn.Sequential(Scale(), nn.Tanh()).double(), normal(3, 2, 4)
    coverage = check_gradients_of(model, values)
    (layer,) = coverage.layers
    assert layer.parameters == tuple(f"0.{name}" for name in names)
    check_all_counted(coverage, model)


OTHERS = {
    "another function of the weight": (lambda m, x: m.weight.exp() * x, (4,), False),
    "a mean over features": (lambda m, x: x + (m.weight * x).mean(-1, keepdim=True), (4,), False),
    "a square matrix": (lambda m, x: x @ m.weight, (4, 4), False),
    "a mean of the weight": (lambda m, x: x * m.weight.mean() + m.weight, (4,), False),
    "a bias that is multiplied": (lambda m, x: x * m.weight + x * m.bias, (4,), True),
    "another shape": (lambda m, x: x * m.weight.repeat(2), (2,), False),
    "nothing": (lambda m, x: x + 0 * m.weight, (4,), False),
    "a sum": (lambda m, x: (x * m.weight).sum(-1, keepdim=True), (4,), False),
    "what is beyond a bound": (lambda m, x: x * m.weight.clamp(max=-3), (4,), False),
    "a size without its sign": (lambda m, x: x * m.weight.abs(), (4,), False),
    "noise": (lambda m, x: x * m.weight + torch.randn_like(x), (4,), False),
    "an inverse": (lambda m, x: x @ torch.linalg.inv(m.weight), (4, 4), False),
    "its own input": (lambda m, x: (x * 1).mul_(m.weight) * m.weight, (4,), False),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_does_more_is_named(name):
    use, shape, bias = OTHERS[name]
    with seeded(32):
        own = Weighted(use, *shape, bias=bias)
        model = nn.ModuleDict({"own": own, "last": nn.Linear(4, 2)}).double()
        values = normal(4, 4)
    run = lambda x: model["last"](x + model["own"](x))  # noqa: E731
    coverage = coverage_of(model, values, run)
    assert {one.name for one in coverage.unattributed} >= {"own.weight"}
    assert coverage.unattributed[0].reason == "Weighted is not supported"
    check_all_counted(coverage, model)


def test_a_trial_leaves_no_trace():
    """Neither in what a module keeps nor in its input, which it may change in place."""

    def count(module: nn.Module, values: Tensor) -> Tensor:
        module.calls += 1
        module.counted += 1
        module.last = module.weight.sum()
        return module.weight * values

    with seeded(32):
        counting = Weighted(count, 4)
        changing = Weighted(lambda m, x: x.mul_(m.weight), 4)
        model = nn.Sequential(nn.Linear(4, 4), counting, nn.Tanh(), changing).double()
        values = normal(3, 4)
    counting.calls = 0
    counting.register_buffer("counted", torch.zeros(()))
    whole = model(values)
    found = []
    coverage = coverage_of(model, values, lambda x: found.append(model(x)) or found[-1])
    assert [layer.name for layer in coverage.layers] == ["0", "1"]
    assert all(torch.equal(one, whole[:2]) for one in found)
    assert counting.calls == int(counting.counted) == 1 + len(found)
    assert torch.equal(counting.last, counting.weight.sum())


class Gated(nn.Module):
    """Has a module with a second input, given by name."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = Weighted(lambda m, x, gate: m.weight * rms(x * gate), 4)

    def forward(self, values: Tensor) -> Tensor:
        return self.norm(values, gate=values.sigmoid()).tanh()


def test_modules_with_more_inputs():
    with seeded(33):
        model, values = Gated().double(), normal(3, 2, 4)
    assert check_gradients_of(model, values).share == 1


def test_what_has_layers_inside_is_run_once():
    model = Weighted(lambda m, x: m.inside(x) + m.weight, 2)
    model.inside = nn.Linear(4, 2)
    calls = []
    model.inside.register_forward_hook(lambda *_: calls.append(1))
    coverage = coverage_of(model, torch.randn(3, 4))
    assert [layer.name for layer in coverage.layers] == ["inside"]
    assert len(calls) == 1
    check_all_counted(coverage, model)


def test_hooks_of_others_see_one_call_a_call():
    model, calls = Gated().double(), []
    model.norm.register_forward_hook(lambda *_: calls.append(1))
    check = normal(3, 2, 4)
    gradients_of(model, check)
    assert len(calls) == 2  # the rehearsal and the pass


def test_an_output_without_examples_first_is_named():
    own = Weighted(lambda m, x: m.weight * x, 4)
    model = nn.ModuleDict({"own": own, "last": nn.Linear(4, 4)})

    def run(values: Tensor) -> Tensor:
        return model["last"](values + model["own"](torch.ones(1, 4)))

    coverage = coverage_of(model, torch.randn(3, 4), run)
    assert "its output has shape [1, 4] for a batch of 2" in coverage.unattributed[0].reason


def test_covariances_are_those_of_each_factor():
    use, shape, _, inputs = FOUND["one and weight"]
    with seeded(34):
        model = nn.Sequential(Weighted(use, *shape), nn.Tanh()).double()
        values = normal(5, *inputs)
    activation, pseudo_gradient = check_covariances(model, values, "0")
    assert_close(activation.flatten(), rms(values).square().sum((0, 1)) / 5)
    hidden = model[0](values)
    (gradients,) = torch.autograd.grad(sum_of_sines(hidden.tanh()).sum(), hidden)
    assert_close(pseudo_gradient.flatten(), gradients.square().sum((0, 1)) / 5)


@pytest.mark.parametrize(
    ("count", "shape"), [(1, (4,)), (1, (4, 3, 2)), (4, (4,)), (4, (4, 3)), (4, (4, 3, 2))]
)
def test_prelu(count, shape):
    with seeded(35):
        model, values = nn.Sequential(nn.PReLU(count)).double(), normal(5, *shape)
    coverage = check_gradients_of(model, values)
    assert coverage.layers[0].shape == (count, 1, 1)
    assert coverage.share == 1


TRANSFORMERS = {
    "llama.modeling_llama.LlamaRMSNorm": {},
    "gemma2.modeling_gemma2.Gemma2RMSNorm": {},
    "t5.modeling_t5.T5LayerNorm": {},
    "sam.modeling_sam.SamLayerNorm": {"data_format": "channels_first"},
}


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_normalisations_of_transformers(name):
    transformers = pytest.importorskip("transformers.models")
    del transformers
    module, kind = name.rsplit(".", 1)
    library = pytest.importorskip(f"transformers.models.{module}")
    with seeded(36):
        norm = getattr(library, kind)(4, **TRANSFORMERS[name])
        model = nn.Sequential(norm, nn.Tanh()).double()
        nn.init.normal_(norm.weight)
        values = normal(3, 4, 5, 4)
    coverage, found = gradients_of(model, values)
    assert coverage.share == 1
    names = list(coverage.layers[0].parameters)

    def loss_of(example: int) -> Tensor:
        return sum_of_sines(model(values[example : example + 1])).sum()

    expected = named_gradients(model, names, loss_of, 3)
    matrices = torch.stack([coverage.layers[0].weight_matrix(one) for one in expected])
    # They compute in float32.
    assert_close(found["0"].dense(), matrices, tolerance=1e-5)
