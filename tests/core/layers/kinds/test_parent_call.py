"""Subclasses that do something before and after their parent's forward."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812, the name everybody reads
from torch import Tensor, nn

from sourcetrace.core.gradients.capture import ForwardPass
from sourcetrace.core.gradients.indexed import IndexedGradient
from sourcetrace.errors import InputError
from tests.core.layers.checks import (
    check_all_counted,
    check_covariances,
    check_gradients_of,
    coverage_of,
    gradients_of,
    normal,
)
from tests.tiny import assert_close, seeded


class ScaledEmbedding(nn.Embedding):
    def forward(self, tokens: Tensor) -> Tensor:
        return super().forward(tokens + 1) * 3.0


class CausalConvolution(nn.Conv1d):
    def forward(self, values: Tensor) -> Tensor:
        return super().forward(F.pad(values, (2, 0)))


class Squared(nn.Linear):
    def forward(self, values: Tensor) -> Tensor:
        return super().forward(input=values.square()).square() + values.sum(-1, keepdim=True)


class Halved(nn.BatchNorm1d):
    """Whose parent has its forward from its own."""

    def forward(self, values: Tensor) -> Tensor:
        return super().forward(values.mT).mean(-1)


class Fixed(nn.Embedding):
    """As learned positions are: of all examples."""

    def forward(self, tokens: Tensor) -> Tensor:
        positions = torch.arange(tokens.shape[1]).expand_as(tokens)
        return super().forward(positions + 2)


TOKENS = torch.tensor([[0, 1, 1], [2, 0, 3], [1, 4, 1], [3, 3, 3]])

FOUND = {
    "embedding": (lambda: ScaledEmbedding(7, 4, padding_idx=2), TOKENS),
    "positions": (lambda: Fixed(7, 4), TOKENS),
    "convolution": (lambda: CausalConvolution(2, 4, 3), (2, 5)),
    "linear": (lambda: Squared(3, 4), (5, 3)),
    "normalisation": (lambda: Halved(4), (3, 4)),
}


def prepared(name: str) -> tuple[nn.Module, Tensor]:
    build, values = FOUND[name]
    with seeded(11):
        module = build().double().eval()
        return nn.Sequential(module, nn.Tanh()), (
            values if isinstance(values, Tensor) else normal(4, *values)
        )


@pytest.mark.parametrize("name", FOUND)
def test_gradients_equal_the_per_example_loop(name):
    model, values = prepared(name)
    forwards = [base.forward for base in type(model[0]).__mro__[:-1]]
    coverage = check_gradients_of(model, values)
    check_all_counted(coverage, model)
    assert coverage.share == 1
    assert [base.forward for base in type(model[0]).__mro__[:-1]] == forwards
    assert_close(gradients_passed(model, values), model(values))


def gradients_passed(model: nn.Module, values: Tensor) -> Tensor:
    layers = coverage_of(model, values).layers
    return ForwardPass(model, layers, lambda: model(values)).outputs


def test_an_embedding_stays_indexed():
    model, values = prepared("embedding")
    assert isinstance(gradients_of(model, values)[1]["0"], IndexedGradient)
    activation, _ = check_covariances(model, values, "0")
    met = values[values != 1] + 1  # 2 is held fixed
    assert_close(activation[0], torch.bincount(met, minlength=7).double() / 4)


class Shared(nn.Module):
    """Adds learned positions that serve all examples, and shares a weight with an idle module."""

    def __init__(self) -> None:
        super().__init__()
        self.idle, self.words = ScaledEmbedding(7, 4), ScaledEmbedding(7, 4)
        self.idle.weight = self.words.weight
        self.positions = ScaledEmbedding(9, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        positions = torch.arange(tokens.shape[1]).unsqueeze(0)
        return (self.words(tokens) + self.positions(positions)).tanh()


def test_positions_may_serve_all_examples():
    with seeded(14):
        model = Shared().double()
    coverage = check_gradients_of(model, TOKENS)
    assert coverage.share == 1
    assert coverage.tied == {"idle.weight": ("words.weight",)}


class Twice(nn.Linear):
    def forward(self, values: Tensor) -> Tensor:
        return super().forward(super().forward(values))


class Penalised(nn.Linear):
    def forward(self, values: Tensor) -> Tensor:
        return super().forward(values) + self.weight.norm()


class Another(nn.Linear):
    def forward(self, values: Tensor) -> Tensor:
        return F.linear(values, self.weight.tanh(), self.bias)


class Pair(nn.Linear):
    def forward(self, values: Tensor) -> tuple[Tensor, Tensor]:
        return super().forward(values), values


class Turned(nn.Linear):
    def forward(self, values: Tensor) -> Tensor:
        return super().forward(values.flatten(0, 1)).unflatten(0, values.shape[:2])


class Holding(nn.Linear):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.inside = nn.Linear(inputs, inputs)

    def forward(self, values: Tensor) -> Tensor:
        return super().forward(self.inside(values))


class Noisy(nn.Linear):
    def forward(self, values: Tensor) -> Tensor:
        return super().forward(values) + torch.randn(4)


class Counting(nn.Linear):
    calls = 0

    def forward(self, values: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(values) * self.calls


class InPlace(nn.Linear):
    def forward(self, values: Tensor) -> Tensor:
        return super().forward(values.mul_(2.0))


@pytest.mark.parametrize(
    "kind", [Twice, Penalised, Another, Pair, Turned, Holding, Noisy, Counting, InPlace]
)
def test_others_are_named(kind):
    with seeded(12):
        model = nn.ModuleList([kind(4, 4), nn.Linear(4, 2)]).double()

    def run(values: Tensor) -> Tensor:
        outputs = model[0](values)
        return model[1](outputs[0] if isinstance(outputs, tuple) else outputs)

    coverage = coverage_of(model, normal(3, 2, 4), run)
    assert coverage.unattributed[0].name == "0.weight"
    assert "has its own forward" in coverage.unattributed[0].reason
    assert {"1"} <= {layer.name for layer in coverage.layers} <= {"1", "0.inside"}
    check_all_counted(coverage, model)


class Sometimes(nn.Linear):
    times = 1

    def forward(self, values: Tensor) -> Tensor:
        for _ in range(self.times):
            values = super().forward(values)
        return values


def test_a_weight_may_be_shared_with_a_layer_before():
    """What comes before is not what the module does with its weight."""
    with seeded(14):
        model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), Squared(4, 4)).double()
    model[2].weight = model[0].weight
    coverage = check_gradients_of(model, normal(5, 4))
    assert coverage.share == 1


def test_another_number_of_calls_later_is_refused():
    model, values = nn.Sequential(Sometimes(3, 3)), torch.randn(3, 3)
    layers = coverage_of(model, values).layers
    model[0].times = 2
    with pytest.raises(InputError, match="Sometimes called the forward of Linear 2 times"):
        ForwardPass(model, layers, lambda: model(values))


def test_embeddings_of_transformers():
    pytest.importorskip("transformers")
    from transformers.models.bart.modeling_bart import (
        BartLearnedPositionalEmbedding,
        BartScaledWordEmbedding,
    )
    from transformers.models.gemma3.modeling_gemma3 import Gemma3TextScaledWordEmbedding

    class Embeddings(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = BartScaledWordEmbedding(7, 4, 1, embed_scale=2.0)
            self.positions = BartLearnedPositionalEmbedding(9, 4)
            self.others = Gemma3TextScaledWordEmbedding(7, 4, 0, embed_scale=2.0)

        def forward(self, tokens: Tensor) -> Tensor:
            return (self.words(tokens) + self.positions(tokens) + self.others(tokens)).tanh()

    with seeded(13):
        model = Embeddings().double()
    coverage = check_gradients_of(model, TOKENS)
    assert coverage.share == 1
