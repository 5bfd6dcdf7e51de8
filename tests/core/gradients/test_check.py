"""Uses of a weight that no module shows are found before anything expensive."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812, the name everybody reads
from torch import Tensor, nn

from sourcetrace.core.gradients.check import check_gradients, hidden_uses
from sourcetrace.core.layers.discovery import find_layers
from sourcetrace.errors import InputError
from tests.core.layers.checks import sum_of_sines
from tests.tiny import seeded


class LanguageModel(nn.Module):
    def __init__(self, *, hidden_use: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(6, 3)
        self.middle = nn.Linear(3, 3)
        self.hidden_use = hidden_use

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.middle(self.embedding(tokens)).tanh()
        return F.linear(hidden, self.embedding.weight) if self.hidden_use else hidden


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("hidden_use", [False, True])
def test_a_hidden_use_is_refused(hidden_use, dtype):
    with seeded(111):
        model = LanguageModel(hidden_use=hidden_use).to(dtype)
        tokens = torch.randint(6, (2, 5))
    coverage = find_layers(model, lambda: model(tokens), examples=2)

    def check() -> None:
        check_gradients(model, coverage, lambda: model(tokens), sum_of_sines, examples=2)

    if not hidden_use:
        check()
        return
    with pytest.raises(InputError, match=r"^embedding: its examples' gradients do not add up"):
        check()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("hidden_use", [False, True])
def test_a_hidden_use_is_found_without_a_loss(hidden_use, dtype):
    with seeded(113):
        model = LanguageModel(hidden_use=hidden_use).to(dtype)
        tokens = torch.randint(6, (2, 5))

    def run() -> dict[str, Tensor]:
        return {"logits": model(tokens)}

    coverage = find_layers(model, run, examples=2, bare=18)
    hidden = hidden_uses(model, coverage, run, examples=2)
    assert hidden == ({"embedding.weight"} if hidden_use else set())
    found = find_layers(model, run, examples=2, bare=18, hidden=hidden)
    assert [layer.name for layer in found.alone] == sorted(hidden)
    assert found.unattributed == ()


class Shifted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.shift = nn.Parameter(torch.ones(3))

    def forward(self, values: Tensor) -> Tensor:
        return self.linear(values * (1 + self.shift))


@pytest.mark.parametrize("coupled", [False, True])
def test_a_bare_parameter_whose_examples_are_not_their_own_is_refused(coupled):
    with seeded(112):
        model = Shifted().double()
        values = torch.randn(2, 3, dtype=torch.float64)

    def loss_of(outputs: Tensor) -> Tensor:
        return sum_of_sines(outputs) * (len(outputs) if coupled else 1)

    coverage = find_layers(model, lambda: model(values), examples=2, bare=3)

    def check() -> None:
        check_gradients(
            model,
            coverage,
            lambda: model(values),
            loss_of,
            examples=2,
            alone=lambda place: (
                lambda: model(values[place : place + 1]),
                lambda outputs: [loss_of(outputs)],
            ),
        )

    if not coupled:
        check()
        return
    with pytest.raises(InputError, match=r"^shift: its examples' gradients do not add up"):
        check()


class Cancelled(nn.Module):
    """Adds to all logits a number that a softmax takes out again, as a key's bias in attention."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 7)
        self.added = nn.Parameter(torch.ones(1))

    def forward(self, values: Tensor) -> Tensor:
        return (self.linear(values) + self.added).softmax(-1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_gradient_that_is_rounding_alone_is_accepted(dtype):
    for seed in range(10):
        with seeded(seed):
            model = Cancelled().to(dtype)
            values = torch.randn(2, 4, 5, dtype=dtype)
        coverage = find_layers(model, lambda: model(values), examples=2, bare=1)  # noqa: B023
        check_gradients(
            model,
            coverage,
            lambda: model(values),  # noqa: B023
            sum_of_sines,
            examples=2,
            alone=lambda place: (
                lambda: model(values[place : place + 1]),  # noqa: B023
                lambda outputs: [sum_of_sines(outputs)],
            ),
        )
