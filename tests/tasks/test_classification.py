"""Losses of a classifier against probabilities computed the long way."""

import math
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F  # noqa: N812, the name everybody reads
from torch import Tensor

from sourcetrace.core.objective import ExampleGenerator
from sourcetrace.tasks import ClassificationTask
from tests.tiny import assert_close, seeded

TASK = ClassificationTask()


def logits_and_labels(examples: int = 6, classes: int = 4) -> tuple[Tensor, Tensor]:
    with seeded(51):
        return (
            torch.randn(examples, classes, dtype=torch.float64),
            torch.randint(classes, (examples,)),
        )


def test_the_training_loss_is_the_cross_entropy_of_each_example():
    logits, labels = logits_and_labels()
    loss = TASK.train_loss(logits, (None, labels))
    for row in range(6):
        weights = [math.exp(value) for value in logits[row].tolist()]
        expected = -math.log(weights[labels[row]] / sum(weights))
        assert loss[row].item() == pytest.approx(expected, rel=1e-12)


def test_the_measurement_is_the_log_odds_of_the_given_label():
    logits, labels = logits_and_labels()
    probabilities = logits.softmax(1)[torch.arange(6), labels]
    expected = probabilities.log() - (1 - probabilities).log()
    assert_close(TASK.measurement(logits, (None, labels)), expected, tolerance=1e-12)


@pytest.mark.parametrize("gap", [20.0, 40.0, 800.0, -800.0])
def test_the_measurement_is_exact_where_the_probability_rounds_to_0_or_1(gap):
    """With one other class at 0 and one at 1, it is gap - log(1 + e)."""
    logits = torch.tensor([[gap, 0.0, 1.0]], dtype=torch.float64, requires_grad=True)
    measurement = TASK.measurement(logits, (None, torch.tensor([0])))
    assert measurement.item() == pytest.approx(gap - math.log(1 + math.e), rel=1e-14)
    (gradient,) = torch.autograd.grad(measurement.sum(), logits)
    share = 1 / (1 + math.e)
    expected = torch.tensor([[1.0, -share, share - 1]], dtype=torch.float64)
    assert_close(gradient, expected, tolerance=1e-14)


def test_the_gradient_of_the_measurement_is_that_of_the_log_odds():
    logits, labels = logits_and_labels()
    logits.requires_grad_()
    probabilities = logits.softmax(1)[torch.arange(6), labels]
    expected = torch.autograd.grad((probabilities.log() - (1 - probabilities).log()).sum(), logits)
    found = torch.autograd.grad(TASK.measurement(logits, (None, labels)).sum(), logits)
    assert_close(found[0], expected[0], tolerance=1e-12)


def sampled_labels(logits: Tensor, seeds: list[int] | None = None) -> Tensor:
    """Return the labels behind a sampled loss: its gradient is softmax minus the label's one."""
    logits = logits.clone().requires_grad_()
    if seeds is None:
        generator = torch.Generator().manual_seed(3)
    else:
        generator = ExampleGenerator.for_examples(seeds)
    loss = TASK.sampled_loss(logits, generator)
    assert loss.shape == (len(logits),)
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    labels = (logits.detach().softmax(1) - gradient).argmax(1)
    # The loss is that label's cross-entropy: no gradient leaks through the draw.
    expected = F.cross_entropy(logits, labels, reduction="none")
    torch.testing.assert_close(loss, expected)
    assert_close(gradient, torch.autograd.grad(expected.sum(), logits)[0], tolerance=1e-12)
    return labels


@pytest.mark.parametrize("per_example", [True, False])
def test_sampled_labels_follow_the_softmax(per_example):
    logits = torch.tensor([[0.0, 2.0, -1.0, 1.0]], dtype=torch.float64)
    draws = 4000
    seeds = list(range(draws)) if per_example else None
    labels = sampled_labels(logits.expand(draws, 4), seeds)
    shares = labels.bincount(minlength=4) / draws
    # Three standard errors of a share are at most 0.024.
    assert (shares - logits[0].softmax(0)).abs().max() < 0.024


def test_a_sampled_label_depends_on_the_example_alone():
    logits = torch.zeros(40, 10, dtype=torch.float64)
    seeds = list(range(100, 140))
    labels = sampled_labels(logits, seeds)
    assert len(labels.unique()) > 5
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    reordered = sampled_labels(logits, [seeds[i] for i in order])
    assert torch.equal(reordered, labels[order])
    assert torch.equal(sampled_labels(logits[:7], seeds[:7]), labels[:7])


@pytest.mark.parametrize("position", [0, 1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_certain_model_samples_its_own_label(position, dtype):
    logits = torch.zeros(500, 3, dtype=dtype)
    logits[:, position] = 400.0
    loss = TASK.sampled_loss(logits, torch.Generator().manual_seed(0))
    assert torch.equal(loss, torch.zeros(500, dtype=dtype))


@pytest.fixture
def largest_draws(monkeypatch) -> None:
    """Replace every draw by the largest `uniform` may return."""

    def largest(generator: torch.Generator, shape: list[int], *, like: Tensor) -> Tensor:
        draw = 1 - torch.finfo(like.dtype).eps
        return torch.full(tuple(shape), draw, dtype=torch.float64).to(like)

    monkeypatch.setattr("sourcetrace.tasks.classification.uniform", largest)


def short_of_1(classes: int) -> Tensor:
    """Return float32 logits whose probabilities add up to less than the largest draw."""
    with seeded(52):
        logits = torch.randn(20_000, classes)
    sums = logits.softmax(1).cumsum(1)[:, -1]
    found = logits[sums < 1 - torch.finfo(torch.float32).eps]
    assert len(found) > 0
    return found


@pytest.mark.usefixtures("largest_draws")
def test_the_largest_draw_never_leaves_the_range_of_labels():
    logits = short_of_1(50)
    loss = TASK.sampled_loss(logits, torch.Generator())
    assert torch.equal(
        loss, F.cross_entropy(logits, torch.full((len(logits),), 49), reduction="none")
    )


@pytest.mark.usefixtures("largest_draws")
def test_the_largest_draw_never_picks_an_impossible_label():
    """Models mask classes by a logit of minus infinity; the last one may be masked."""
    logits = F.pad(short_of_1(50), (0, 1), value=-torch.inf)
    assert TASK.sampled_loss(logits, torch.Generator()).isfinite().all()


def test_describes_the_prediction():
    logits = torch.tensor([[0.0, math.log(3)], [math.log(4), 0.0]], dtype=torch.float64)
    described = TASK.describe(logits, (None, torch.tensor([1, 1])))
    assert described["predicted_label"] == ["1", "0"]
    expected = [float(Fraction(3, 4)), float(Fraction(1, 5))]
    assert described["given_label_probability"] == pytest.approx(expected)

    class Named(ClassificationTask):
        label_names = ("cat", "dog")

    assert Named().describe(logits, (None, torch.tensor([1, 1])))["predicted_label"] == [
        "dog",
        "cat",
    ]


def test_a_higher_margin_is_better():
    assert TASK.measurement_higher_is_better
