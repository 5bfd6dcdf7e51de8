"""Modules that are called repeatedly, and parameters that modules share: sums over all uses."""

import pytest
import torch
from torch import Tensor, nn

from sourcetrace.core.curvature.covariance_terms import CovarianceTerms
from sourcetrace.core.gradients.capture import ForwardPass
from sourcetrace.core.gradients.per_example import DenseGradient
from tests.core.layers.checks import (
    check_all_counted,
    check_covariances,
    check_gradients_of,
    normal,
    passed,
    sum_of_sines,
)
from tests.oracles.dense import named_gradients
from tests.tiny import assert_close, seeded


class Repeats(nn.Module):
    """One convolution for several steps, on images that shrink."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.step = nn.Conv2d(2, 2, 2)
        self.norm = nn.GroupNorm(1, 2)
        self.steps = steps

    def forward(self, images: Tensor) -> Tensor:
        for _ in range(self.steps):
            images = self.norm(self.step(images)).tanh()
        return images


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_module_called_repeatedly_has_the_positions_of_all_calls(steps):
    with seeded(71):
        model = Repeats(steps).double()
        images = normal(3, 2, 5, 5)
    coverage = check_gradients_of(model, images)
    assert coverage.share == 1
    assert coverage.tied == {}
    _, captured = passed(model, images)
    sizes = [(5 - step) ** 2 for step in range(1, steps + 1)]
    assert captured.inputs()["step"].shape == (3, 1, sum(sizes), 9)


def test_one_module_under_two_names_is_one_layer():
    with seeded(72):
        shared = nn.Linear(3, 3)
        model = nn.Sequential(shared, nn.Tanh(), shared, nn.Linear(3, 2)).double()
        inputs = normal(4, 3)
    coverage = check_gradients_of(model, inputs)
    assert [layer.name for layer in coverage.layers] == ["0", "3"]
    check_all_counted(coverage, model)


class Tied(nn.Module):
    """An autoencoder with one square weight for both directions."""

    def __init__(self, *, bias: bool, biases_too: bool = False) -> None:
        super().__init__()
        self.encoder = nn.Linear(4, 4, bias=bias)
        self.decoder = nn.Linear(4, 4, bias=bias)
        self.decoder.weight = self.encoder.weight
        if biases_too:
            self.decoder.bias = self.encoder.bias

    def forward(self, values: Tensor) -> Tensor:
        return self.decoder(self.encoder(values).tanh())


@pytest.mark.parametrize("positions", [(), (3,)])
@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"bias": False}, ["encoder"]),
        ({"bias": True}, ["encoder.weight", "encoder.bias", "decoder.bias"]),
        ({"bias": True, "biases_too": True}, ["encoder"]),
    ],
    ids=["no biases", "biases apart", "biases tied"],
)
def test_a_tied_weight_is_attributed_once(options, names, positions):
    with seeded(73):
        model = Tied(**options).double()
        inputs = normal(4, *positions, 4)
    coverage = check_gradients_of(model, inputs)
    assert [layer.name for layer in coverage.layers] == names
    assert coverage.tied["encoder.weight"] == ("decoder.weight",)
    assert ("encoder.bias" in coverage.tied) == options.get("biases_too", False)
    check_all_counted(coverage, model)


class LanguageModel(nn.Module):
    """Its output layer has the embedding's weight."""

    def __init__(self, *, bias: bool = False, padding_idx: int | None = None) -> None:
        super().__init__()
        self.embedding = nn.Embedding(6, 3, padding_idx=padding_idx)
        self.middle = nn.Linear(3, 3)
        self.logits = nn.Linear(3, 6, bias=bias)
        self.logits.weight = self.embedding.weight
        self.skips_logits = False

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.middle(self.embedding(tokens)).tanh()
        return hidden if self.skips_logits else self.logits(hidden)


def language_model(**options):
    with seeded(74):
        return LanguageModel(**options).double(), torch.randint(5, (4, 7))


@pytest.mark.parametrize("bias", [False, True])
def test_an_output_layer_tied_to_an_embedding_is_attributed_once(bias):
    model, tokens = language_model(bias=bias)
    coverage = check_gradients_of(model, tokens)
    assert coverage.layers[0].shape == (1, 6, 3)
    assert coverage.layers[0].parameters == ("embedding.weight",)
    assert coverage.tied == {"embedding.weight": ("logits.weight",)}
    assert coverage.share == 1
    check_all_counted(coverage, model)


def test_a_tied_padding_token_has_the_output_layer_s_gradient_alone():
    model, tokens = language_model(padding_idx=2)
    assert (tokens == 2).any()
    check_gradients_of(model, tokens)


def test_one_of_two_tied_modules_may_stay_unused():
    model, tokens = language_model()
    model.skips_logits = True
    coverage = check_gradients_of(model, tokens)
    assert coverage.share == 1


def test_covariances_of_a_tied_embedding_are_those_of_its_whole_gradient():
    model, tokens = language_model()
    activation, pseudo_gradient = check_covariances(model, tokens, "embedding")
    name = "embedding.weight"

    def loss_of(example: int) -> Tensor:
        return sum_of_sines(model(tokens[example : example + 1])).sum()

    rows = [one[name] for one in named_gradients(model, [name], loss_of, len(tokens))]
    assert_close(activation, sum(one.T @ one for one in rows).unsqueeze(0) / len(rows))
    assert_close(pseudo_gradient, sum(one @ one.T for one in rows).unsqueeze(0) / len(rows))


def test_some_examples_of_a_tied_layer_can_be_taken():
    model, tokens = language_model()
    coverage, captured = passed(model, tokens)
    inputs = captured.inputs()["embedding"]
    outputs = captured.output_gradients(sum_of_sines(captured.outputs), last=True)["embedding"]
    own = torch.tensor([True, False, True, True])
    (layer, *_) = coverage.layers
    some = CovarianceTerms.of(layer, inputs[own], outputs[own])
    _, captured = passed(model, tokens[own])
    gradients = captured.output_gradients(sum_of_sines(captured.outputs), last=True)
    expected = CovarianceTerms.of(layer, captured.inputs()["embedding"], gradients["embedding"])
    assert some.examples == 3
    for one, other in zip(some.activation, expected.activation, strict=True):
        assert_close(one.summed(), other.summed())
    assert_close(some.pseudo_gradient.summed(), expected.pseudo_gradient.summed())


def test_a_weight_tied_to_an_unsupported_module_is_named():
    class Scales(nn.Module):
        def __init__(self, weight: nn.Parameter) -> None:
            super().__init__()
            self.scale = weight

        def forward(self, values: Tensor) -> Tensor:
            return values @ self.scale

    linear = nn.Linear(3, 3)
    model = nn.Sequential(linear, Scales(linear.weight), nn.Linear(3, 2))
    _, captured = passed(model, torch.randn(3, 3))
    del captured
    coverage = passed(model, torch.randn(3, 3))[0]
    assert [layer.name for layer in coverage.layers] == ["0.bias", "2"]
    (left,) = coverage.unattributed
    assert left.reason == "tied, and for 1.scale: Scales is not supported"
    check_all_counted(coverage, model)


def test_the_number_of_calls_may_depend_on_the_batch():
    class Loops(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 3)

        def forward(self, values: Tensor) -> Tensor:
            for _ in range(values.shape[1]):
                values = self.linear(values).tanh()
            return values

    model = Loops().double()
    coverage, _ = passed(model, normal(2, 1, 3))
    values = normal(4, 2, 3)
    captured = ForwardPass(model, coverage.layers, lambda: model(values), examples=4)
    found = captured.gradients(
        captured.inputs(), captured.output_gradients(sum_of_sines(captured.outputs), last=True)
    )
    assert isinstance(found["linear"], DenseGradient)
    assert_close(found["linear"].dense(), _of_each(model, values))


def _of_each(model: nn.Module, values: Tensor) -> Tensor:
    def loss_of(example: int) -> Tensor:
        return sum_of_sines(model(values[example : example + 1])).sum()

    names = ["linear.weight", "linear.bias"]
    rows = named_gradients(model, names, loss_of, len(values))
    return torch.stack(
        [torch.cat([one[names[0]], one[names[1]][:, None]], 1)[None] for one in rows]
    )
