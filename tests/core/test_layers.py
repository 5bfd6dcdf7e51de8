"""Which parameters are attributed, and how the layers lay out inputs and output gradients."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812, the name everybody reads
from torch import Tensor, nn

from sourcetrace.core.errors import InputError
from sourcetrace.core.layers import Coverage, find_layers
from tests.tiny import assert_close, seeded


def coverage_of(model: nn.Module, inputs: Tensor) -> Coverage:
    return find_layers(model, lambda: model(inputs))


def reasons(coverage: Coverage) -> dict[str, tuple[int, str]]:
    return {one.name: (one.size, one.reason) for one in coverage.unattributed}


def check_all_counted(coverage: Coverage, model: nn.Module) -> None:
    """Every parameter is attributed or named, and none is both."""
    attributed = [name for layer in coverage.layers for name in layer.parameters]
    named = attributed + [one.name for one in coverage.unattributed]
    assert sorted(named) == sorted(name for name, _ in model.named_parameters())
    total = sum(parameter.numel() for parameter in model.parameters())
    sizes = [layer.size for layer in coverage.layers]
    assert sum(sizes) + sum(one.size for one in coverage.unattributed) == total
    assert coverage.share == pytest.approx(sum(sizes) / total)


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


@pytest.mark.parametrize(
    ("module", "inputs", "sizes", "reason"),
    [
        (nn.BatchNorm1d(4), None, {"weight": 4, "bias": 4}, "BatchNorm1d is not supported"),
        (nn.LayerNorm(4), None, {"weight": 4, "bias": 4}, "LayerNorm is not supported"),
        (
            nn.Embedding(7, 4),
            torch.tensor([0, 3, 6]),
            {"weight": 28},
            "Embedding is not supported",
        ),
    ],
)
def test_names_the_modules_without_an_outer_product(module, inputs, sizes, reason):
    model = nn.Sequential(module, nn.Linear(4, 2))
    coverage = coverage_of(model, torch.randn(3, 4) if inputs is None else inputs)
    assert reasons(coverage) == {f"0.{key}": (size, reason) for key, size in sizes.items()}
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


class Tied(nn.Module):
    """An autoencoder with one square weight for both directions."""

    def __init__(self, *, bias: bool) -> None:
        super().__init__()
        self.encoder = nn.Linear(4, 4, bias=bias)
        self.decoder = nn.Linear(4, 4, bias=bias)
        self.decoder.weight = self.encoder.weight
        self.head = nn.Linear(4, 2)

    def forward(self, values: Tensor) -> Tensor:
        return self.head(self.decoder(self.encoder(values)))


@pytest.mark.parametrize("bias", [False, True])
def test_a_tied_weight_is_named_and_attributed_nowhere(bias):
    model = Tied(bias=bias)
    coverage = coverage_of(model, torch.zeros(1, 4))
    assert [layer.name for layer in coverage.layers] == ["head"]
    size, reason = reasons(coverage)["encoder.weight"]
    assert size == 16
    assert reason.startswith("tied")
    check_all_counted(coverage, model)


def test_an_output_layer_tied_to_an_embedding_is_not_attributed():
    class LanguageModel(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(5, 3)
            self.middle = nn.Linear(3, 3)
            self.logits = nn.Linear(3, 5)
            self.logits.weight = self.embedding.weight

        def forward(self, tokens: Tensor) -> Tensor:
            return self.logits(self.middle(self.embedding(tokens)))

    model = LanguageModel()
    coverage = coverage_of(model, torch.tensor([[0, 1]]))
    assert [layer.name for layer in coverage.layers] == ["middle"]
    check_all_counted(coverage, model)


def test_names_a_module_that_is_called_twice_or_never():
    class Repeats(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.twice = nn.Linear(3, 3)
            self.never = nn.Linear(3, 3)
            self.once = nn.Linear(3, 2)

        def forward(self, values: Tensor) -> Tensor:
            return self.once(self.twice(self.twice(values)))

    model = Repeats()
    coverage = coverage_of(model, torch.zeros(1, 3))
    assert [layer.name for layer in coverage.layers] == ["once"]
    found = reasons(coverage)
    assert found["twice.weight"] == (9, "called 2 times in one forward pass")
    assert found["twice.bias"] == (3, "called 2 times in one forward pass")
    assert found["never.weight"] == (9, "called 0 times in one forward pass")
    check_all_counted(coverage, model)


def test_one_module_under_two_names_counts_as_called_twice():
    shared = nn.Linear(3, 3)
    model = nn.Sequential(shared, shared, nn.Linear(3, 2))
    coverage = coverage_of(model, torch.zeros(1, 3))
    assert [layer.name for layer in coverage.layers] == ["2"]
    assert reasons(coverage)["0.weight"][1] == "called 2 times in one forward pass"
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


def test_a_subclass_may_compute_something_else_and_is_named():
    class Doubled(nn.Linear):
        def forward(self, values: Tensor) -> Tensor:
            return 2 * super().forward(values)

    model = nn.Sequential(Doubled(3, 3), nn.Linear(3, 2))
    coverage = coverage_of(model, torch.zeros(1, 3))
    assert reasons(coverage)["0.weight"] == (9, "Doubled is not supported")
    check_all_counted(coverage, model)


def test_a_model_may_be_one_layer():
    model = nn.Linear(3, 2)
    coverage = coverage_of(model, torch.zeros(1, 3))
    assert coverage.layers[0].parameters == ("weight", "bias")
    check_all_counted(coverage, model)


def test_nothing_attributable_is_refused_with_what_was_found():
    model = nn.Sequential(nn.LayerNorm(3))
    expected = (
        r"at least one trainable nn\.Linear .* found 0\.weight \(LayerNorm is not supported\)"
    )
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
    positions = layer.inputs_of(model[0], images)
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
        layer.inputs_of(model[0], torch.zeros(1, 5))
