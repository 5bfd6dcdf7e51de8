"""Which parameters are attributed, and how the layers lay out inputs and output gradients."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F  # noqa: N812, the name everybody reads
from torch import Tensor, nn

from sourcetrace.core.layers.discovery import Coverage, find_layers
from sourcetrace.errors import InputError
from tests.core.layers.checks import check_all_counted
from tests.tiny import assert_close, seeded


def coverage_of(model: nn.Module, inputs: Tensor) -> Coverage:
    return find_layers(model, lambda: model(inputs))


def reasons(coverage: Coverage) -> dict[str, tuple[int, str]]:
    return {one.name: (one.size, one.reason) for one in coverage.unattributed}


def test_finds_linear_and_convolution_with_their_shapes():
    model = nn.Sequential(
        nn.Conv2d(4, 6, (2, 3), groups=2),
        nn.Flatten(),
        nn.Linear(6 * 4 * 3, 5, bias=False),
    )
    coverage = coverage_of(model, torch.zeros(2, 4, 5, 5))
    convolution, linear = coverage.layers
    assert convolution.shape == (2, 3, 2 * 2 * 3 + 1)
    assert convolution.parameters == ("0.weight", "0.bias")
    assert linear.shape == (1, 5, 72)
    assert linear.parameters == ("2.weight",)
    assert coverage.unattributed == ()
    assert coverage.share == 1.0
    check_all_counted(coverage, model)


class Rotation(nn.Module):
    """Turns its features by angles that it learns."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.angles = nn.Parameter(torch.randn(features))

    def forward(self, values: Tensor) -> Tensor:
        return self.angles.cos() * values + self.angles.sin() * values.roll(1, -1)


def test_names_the_modules_without_an_outer_product():
    model = nn.Sequential(Rotation(4), nn.Linear(4, 2))
    coverage = coverage_of(model, torch.randn(3, 4))
    assert reasons(coverage) == {"0.angles": (4, "Rotation is not supported")}
    assert [layer.name for layer in coverage.layers] == ["1"]
    check_all_counted(coverage, model)


def test_names_a_frozen_layer():
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    model[0].requires_grad_(False)
    coverage = coverage_of(model, torch.zeros(1, 4))
    frozen = "frozen (requires_grad is False)"
    assert reasons(coverage) == {"0.weight": (12, frozen), "0.bias": (3, frozen)}
    assert coverage.share == pytest.approx(8 / 23)
    check_all_counted(coverage, model)


@pytest.mark.parametrize("frozen", ["weight", "bias"])
def test_a_frozen_part_leaves_the_other_attributed(frozen):
    model = nn.Sequential(nn.Linear(4, 3))
    model[0].get_parameter(frozen).requires_grad_(False)
    kept = "bias" if frozen == "weight" else "weight"
    coverage = coverage_of(model, torch.zeros(1, 4))
    (layer,) = coverage.layers
    assert (layer.name, layer.parameters) == (f"0.{kept}", (f"0.{kept}",))
    assert layer.shape == ((1, 3, 1) if kept == "bias" else (1, 3, 4))
    check_all_counted(coverage, model)


def test_a_weight_and_a_bias_of_unlike_settings_are_two_layers():
    model = nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3), nn.Linear(3, 2))
    decayed = {"0.weight": 0.1, "2.weight": 0.1, "2.bias": 0.1}
    coverage = find_layers(model, lambda: model(torch.zeros(2, 4)), lambda n: decayed.get(n, 0.0))
    shapes = {layer.name: layer.shape for layer in coverage.layers}
    assert shapes == {
        "0.weight": (1, 3, 4),
        "0.bias": (1, 3, 1),
        "1": (3, 1, 2),
        "2": (1, 2, 4),
    }
    check_all_counted(coverage, model)


def test_names_a_module_that_is_never_called():
    class Leaves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.never = nn.Linear(3, 3)
            self.once = nn.Linear(3, 2)

        def forward(self, values: Tensor) -> Tensor:
            return self.once(values)

    model = Leaves()
    coverage = coverage_of(model, torch.zeros(1, 3))
    assert [layer.name for layer in coverage.layers] == ["once"]
    never = "called 0 times in one forward pass"
    assert reasons(coverage) == {"never.weight": (9, never), "never.bias": (3, never)}
    check_all_counted(coverage, model)


def test_names_a_bare_parameter():
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))
            self.linear = nn.Linear(3, 2)

        def forward(self, values: Tensor) -> Tensor:
            return self.linear(values * self.scale)

    model = Scaled()
    coverage = coverage_of(model, torch.zeros(1, 3))
    assert reasons(coverage) == {"scale": (3, "Scaled is not supported")}
    check_all_counted(coverage, model)


class Bare(nn.Module):
    """Three parameters of no module, one of them unused, and one in training alone."""

    def __init__(self) -> None:
        super().__init__()
        self.large = nn.Parameter(torch.ones(6, 3))
        self.small = nn.Parameter(torch.ones(3))
        self.unused = nn.Parameter(torch.ones(2))
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)
        self.linear = nn.Linear(3, 2)

    def forward(self, values: Tensor) -> dict[str, Tensor]:
        return {"logits": self.linear(values * self.small + self.large.sum(0))}


@pytest.mark.parametrize(
    ("limit", "taken"), [(2, []), (3, ["small"]), (20, ["small"]), (21, ["large", "small"])]
)
def test_bare_parameters_are_layers_by_themselves_up_to_a_limit(limit, taken):
    model = Bare()
    coverage = find_layers(model, lambda: model(torch.ones(2, 3)), examples=2, bare=limit)
    assert [layer.name for layer in coverage.alone] == taken
    assert [layer.name for layer in coverage.layers] == ["linear", *taken]
    left_out = {name: reason for name, (_, reason) in reasons(coverage).items()}
    assert left_out.pop("frozen") == "frozen (requires_grad is False)"
    assert left_out.pop("unused").startswith("the outputs of the first examples do not depend")
    assert set(left_out) == {"large", "small"} - set(taken)
    for reason in left_out.values():
        assert reason == (
            "Bare is not supported, and attribution.bare_parameters leaves no room for its numbers"
        )
    check_all_counted(coverage, model)


class Flattened(nn.Module):
    """Tokens of all examples in one dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.head = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, values: Tensor) -> Tensor:
        hidden = self.tokens(values.flatten(0, 1)).tanh()
        return self.head(hidden.unflatten(0, values.shape[:2]).mean(1))


def test_a_layout_that_names_no_example_takes_passes_alone():
    model = Flattened()
    coverage = find_layers(model, lambda: model(torch.ones(2, 5, 3)), examples=2, bare=0)
    assert [layer.name for layer in coverage.layers] == ["tokens", "head"]
    assert [layer.name for layer in coverage.alone] == ["tokens"]
    assert coverage.unattributed == ()


def test_what_counts_examples_by_chance_is_found_by_another_pass():
    """A pass of two examples, one token each, and one of three."""
    model = Flattened()

    def runs(*counts: int):
        return [(lambda n=n: model(torch.ones(n, 1 + (n > 2), 3)), n) for n in counts]

    (first, _), *further = runs(2, 3)
    assert not find_layers(model, first, examples=2, bare=0).alone
    found = find_layers(model, first, examples=2, further=further, bare=0)
    assert [layer.name for layer in found.alone] == ["tokens"]


def test_what_the_data_decides_takes_passes_alone():
    class Chooses(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rarely, self.head = nn.Linear(3, 3), nn.Linear(3, 2)

        def forward(self, values: Tensor) -> Tensor:
            return self.head(self.rarely(values) if len(values) > 2 else values)

    model = Chooses()
    several = (lambda: model(torch.ones(3, 3)), 3)
    run = partial(model, torch.ones(2, 3))
    coverage = find_layers(model, run, examples=2, further=[several], bare=0)
    assert [layer.name for layer in coverage.alone] == ["rarely"]
    coverage = find_layers(model, run, examples=2, further=[several])
    assert reasons(coverage)["rarely.weight"][1] == (
        "called in one forward pass and not in another"
    )


def test_a_single_one_of_what_a_module_takes_is_bare():
    class Singly(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.row, self.image = nn.Linear(4, 4), nn.Conv2d(1, 2, 2)

        def forward(self, values: Tensor) -> Tensor:
            rows = [self.image(self.row(one[0]).reshape(1, 2, 2)).flatten() for one in values]
            return torch.stack(rows)

    model = Singly()
    coverage = find_layers(model, lambda: model(torch.ones(2, 1, 4)), examples=2, bare=100)
    assert {layer.name for layer in coverage.layers} == set(dict(model.named_parameters()))
    assert all(layer.bare for layer in coverage.layers)


def test_a_subclass_may_compute_something_else_and_is_named():
    class Doubled(nn.Linear):
        def forward(self, values: Tensor) -> Tensor:
            return 2 * F.linear(values, self.weight, self.bias)

    model = nn.Sequential(Doubled(3, 3), nn.Linear(3, 2))
    coverage = coverage_of(model, torch.zeros(1, 3))
    expected = "Doubled has its own forward: it may compute something else than Linear"
    assert reasons(coverage)["0.weight"] == (9, expected)
    check_all_counted(coverage, model)


def test_a_model_may_be_one_layer():
    model = nn.Linear(3, 2)
    coverage = coverage_of(model, torch.zeros(1, 3))
    assert coverage.layers[0].parameters == ("weight", "bias")
    check_all_counted(coverage, model)


def test_nothing_attributable_is_refused_with_what_was_found():
    model = nn.Sequential(Rotation(3))
    expected = r"at least one trainable layer .* found 0\.angles \(Rotation is not supported\)"
    with pytest.raises(InputError, match=expected):
        coverage_of(model, torch.zeros(1, 3))


def test_a_model_without_parameters_is_refused():
    with pytest.raises(InputError, match="found none"):
        coverage_of(nn.ReLU(), torch.zeros(1, 3))


def test_no_hook_is_left_on_the_model_even_if_it_fails():
    model = nn.Sequential(nn.Linear(3, 2))
    with pytest.raises(RuntimeError):
        coverage_of(model, torch.zeros(1, 4))
    assert not model._forward_hooks
    assert not model[0]._forward_hooks


def test_parameters_laid_out_as_a_matrix_reproduce_the_layer():
    with seeded(0):
        model = nn.Sequential(nn.Conv2d(4, 6, 3, groups=2, padding=1)).double()
        images = torch.randn(2, 4, 5, 4, dtype=torch.float64)
    (layer,) = coverage_of(model, images).layers
    matrix = layer.weight_matrix({key: p.detach() for key, p in model.named_parameters()})
    positions = layer.inputs_of(model[0], images, layer.sites[0])
    outputs = (positions @ matrix.mT).transpose(2, 3).reshape(2, 6, 5, 4)
    assert_close(outputs, model(images).detach(), tolerance=1e-12)


def test_weight_matrix_keeps_the_bias_as_the_last_column():
    model = nn.Linear(3, 2).double()
    (layer,) = coverage_of(model, torch.zeros(1, 3, dtype=torch.float64)).layers
    matrix = layer.weight_matrix(dict(model.named_parameters()))
    values = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    assert_close(matrix[0] @ F.pad(values, (0, 1), value=1.0), model(values), tolerance=1e-12)


def test_another_number_of_features_is_refused_with_the_layer_named():
    model = nn.Sequential(nn.Linear(3, 2))
    (layer,) = coverage_of(model, torch.zeros(1, 3)).layers
    with pytest.raises(InputError, match=r"^0: the inputs have 6 features, the weight expects 4"):
        layer.inputs_of(model[0], torch.zeros(1, 5), layer.sites[0])


def test_a_compiled_module_is_refused_before_it_runs():
    def compiled(module: nn.Module) -> nn.Module:
        module.compile(backend="eager")
        return module

    for part in (torch.compile(nn.Linear(3, 3), backend="eager"), compiled(nn.Linear(3, 3))):
        model = nn.Sequential(nn.Linear(3, 3), part)
        ran = []
        with pytest.raises(InputError, match=r"^1 is compiled by torch\.compile.*build_model"):
            find_layers(model, lambda ran=ran: ran.append(1))
        assert not ran


@pytest.mark.parametrize("together", [False, True])
def test_split_layers_have_the_columns_of_one(together):
    """With unlike settings, the weight's layer and the bias's make up the whole one."""
    with seeded(9):
        model = nn.Sequential(nn.Conv2d(4, 6, 2, groups=2), nn.Tanh()).double()
    tensors = {name: p.detach() for name, p in model.named_parameters()}
    images = torch.zeros(2, 4, 3, 3, dtype=torch.float64)
    coverage = find_layers(model, lambda: model(images), lambda n: together or n)
    matrices = [layer.weight_matrix(tensors) for layer in coverage.layers]
    weight = model[0].weight.detach().movedim(1, -1).reshape(2, 3, -1)
    bias = model[0].bias.detach().reshape(2, 3, 1)
    assert_close(torch.cat(matrices, 2), torch.cat([weight, bias], 2))
    assert len(matrices) == (1 if together else 2)
