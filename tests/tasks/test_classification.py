"""Losses of a classifier against probabilities computed the long way."""

import itertools
import math
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F  # noqa: N812, the name everybody reads
from torch import Tensor

from sourcetrace.core.model.objective import ExampleGenerator
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


def sampled_gradients(logits: Tensor, generator: torch.Generator) -> Tensor:
    """Return the logit gradients of the sampled loss, [B, C]; nothing else of it counts."""
    logits = logits.clone().requires_grad_()
    loss = TASK.sampled_loss(logits, generator)
    assert loss.shape == (len(logits),)
    return torch.autograd.grad(loss.sum(), logits)[0]


def fisher(logits: Tensor) -> Tensor:
    """Return E[(p - e_y)(p - e_y)ᵀ] of one example, label by label, [C, C]."""
    probabilities = logits.softmax(0)
    total = torch.zeros(len(logits), len(logits), dtype=logits.dtype)
    for label, probability in enumerate(probabilities):
        gradient = probabilities.clone()
        gradient[label] -= 1
        total += probability * torch.outer(gradient, gradient)
    return total


@pytest.mark.parametrize("logits", [[0.0, 2.0, -1.0, 1.0], [9.0, 0.0, -30.0, 8.0], [0.0, 0.0]])
def test_the_sampled_gradient_has_exactly_the_fisher_second_moment(monkeypatch, logits):
    """Every combination of signs once is the expectation itself."""
    combinations = torch.tensor(
        list(itertools.product((-1.0, 1.0), repeat=len(logits))), dtype=torch.float64
    )
    monkeypatch.setattr(
        "sourcetrace.tasks.classification.signs", lambda *_, like: combinations.to(like)
    )
    one = torch.tensor(logits, dtype=torch.float64)
    gradients = sampled_gradients(one.expand(len(combinations), -1), torch.Generator())
    second_moment = gradients.T @ gradients / len(combinations)
    assert_close(second_moment, fisher(one), tolerance=1e-12)
    assert gradients.mean(0).abs().max() < 1e-15


@pytest.mark.parametrize("per_example", [True, False])
def test_drawn_gradients_have_the_fisher_second_moment(per_example):
    logits = torch.tensor([[0.0, 2.0, -1.0, 1.0]], dtype=torch.float64)
    draws = 4000
    if per_example:
        generator: torch.Generator = ExampleGenerator.for_examples(list(range(draws)))
    else:
        generator = torch.Generator().manual_seed(3)
    gradients = sampled_gradients(logits.expand(draws, 4), generator)
    # An entry is at most 1 in size, so three standard errors of a mean are at most 0.05.
    assert (gradients.T @ gradients / draws - fisher(logits[0])).abs().max() < 0.03
    assert gradients.mean(0).abs().max() < 0.03


def test_a_sampled_gradient_leaves_the_logits_sum_alone():
    """The softmax does not see a constant added to all logits, nor may its Fisher matrix."""
    logits, _ = logits_and_labels()
    gradients = sampled_gradients(logits, torch.Generator().manual_seed(1))
    assert gradients.sum(1).abs().max() < 1e-15
    assert (gradients.abs().max(1).values > 0.01).all()


def test_a_sampled_gradient_depends_on_the_example_alone():
    logits = torch.zeros(40, 10, dtype=torch.float64)
    seeds = list(range(100, 140))
    whole = sampled_gradients(logits, ExampleGenerator.for_examples(seeds))
    assert len(whole.unique(dim=0)) > 35
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    reordered = ExampleGenerator.for_examples([seeds[i] for i in order])
    assert torch.equal(sampled_gradients(logits, reordered), whole[order])
    some = ExampleGenerator.for_examples(seeds[:7])
    assert torch.equal(sampled_gradients(logits[:7], some), whole[:7])


@pytest.mark.parametrize("position", [0, 1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_certain_model_has_no_curvature(position, dtype):
    logits = torch.zeros(50, 3, dtype=dtype)
    logits[:, position] = 800.0
    gradients = sampled_gradients(logits, torch.Generator().manual_seed(0))
    assert torch.equal(gradients, torch.zeros(50, 3, dtype=dtype))


def test_a_masked_class_has_no_gradient():
    """Models mask classes by a logit of minus infinity."""
    logits, _ = logits_and_labels()
    masked = F.pad(logits, (0, 1), value=-torch.inf)
    gradients = sampled_gradients(masked, torch.Generator().manual_seed(0))
    assert gradients.isfinite().all()
    assert not gradients[:, -1].any()


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
