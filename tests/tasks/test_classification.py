"""Losses of a classifier against probabilities computed the long way."""

import itertools
import math
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F  # noqa: N812, the name everybody reads
from torch import Tensor

from sourcetrace.core.model.objective import ExampleGenerator
from sourcetrace.errors import InputError
from sourcetrace.tasks import ClassificationTask, TaskBase, TokenClassificationTask
from sourcetrace.tasks.losses import CrossEntropy, FocalLoss
from tests.tasks.losses.checks import check_curvature, task_values
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
    monkeypatch.setattr("sourcetrace.tasks.loss_task.signs", lambda *_, like: combinations.to(like))
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


@pytest.mark.parametrize(
    "labels",
    [
        lambda labels: labels.int(),
        lambda labels: labels.to(torch.uint8),
        lambda labels: labels.unsqueeze(1),
        lambda labels: F.one_hot(labels, 4),
        lambda labels: F.one_hot(labels, 4).double(),
    ],
    ids=["int32", "uint8", "column", "one-hot", "one-hot shares"],
)
def test_labels_come_in_many_forms(labels):
    logits, given = logits_and_labels()
    found = task_values(TASK, logits, (None, labels(given)))
    expected = task_values(TASK, logits, (None, given))
    assert_close(found, expected, tolerance=1e-14)
    assert TASK.describe(logits, (None, labels(given))) == TASK.describe(logits, (None, given))


def test_the_label_of_soft_ones_is_the_largest():
    logits, labels = logits_and_labels()
    shares = 0.4 * F.one_hot(labels, 4).double() + 0.15
    expected = F.cross_entropy(logits, shares, reduction="none")
    assert_close(TASK.train_loss(logits, (None, shares)), expected, tolerance=1e-14)
    measured = TASK.measurement(logits, (None, labels))
    assert torch.equal(TASK.measurement(logits, (None, shares)), measured)


class Weighted(ClassificationTask):
    loss = CrossEntropy(class_weights=(1.0, 3.0, 0.2, 2.0), mean_weight=1.7, label_smoothing=0.1)


class Focal(ClassificationTask):
    loss = FocalLoss(gamma=2.0)


@pytest.mark.parametrize("task", [TASK, Weighted(), Focal()])
def test_ignored_examples_count_nowhere(task):
    logits, labels = logits_and_labels()
    some = labels.clone()
    some[[1, 4]] = -100
    found = task_values(task, logits, (None, some))
    assert not found[:, [1, 4]].any()
    kept = [0, 2, 3, 5]
    expected = task_values(task, logits, (None, labels))
    assert_close(found[:, kept], expected[:, kept], tolerance=1e-14)
    described = task.describe(logits, (None, some))
    assert described["given_label_probability"][1] is None
    assert described["given_label_probability"][2] is not None


@pytest.mark.parametrize("task", [TASK, Weighted()])
def test_the_second_moment_is_the_hessian_with_labels_that_are_ignored_or_soft(task):
    logits, _ = logits_and_labels(3)
    check_curvature(task, logits, (None, torch.tensor([2, -100, 0])))
    check_curvature(task, logits, (None, torch.rand(3, 4, dtype=torch.float64)))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([0, 3, 4, 1]), r"Example 2 .* has the label 4, .* 4 classes, 0 to 3"),
        (torch.tensor([0, -1, 4, 1]), r"Example 1 .* has the label -1"),
        (torch.tensor([0.0, 1.0, 2.0, 1.0]), r"labels \[4\], torch.float32; expected whole"),
        (torch.zeros(4, 3), r"labels \[4, 3\]"),
        (torch.zeros(1).long(), r"labels \[1\]"),
    ],
)
def test_labels_that_are_no_classes_are_refused(labels, message):
    with pytest.raises(InputError, match=message):
        TASK.train_loss(torch.zeros(4, 4), (None, labels))


def test_weighted_examples_add_up_to_torchs_weighted_mean():
    """Over the whole training set as one batch, with an ignored label in it."""
    logits, labels = logits_and_labels()
    labels[2] = -100
    weights = torch.tensor([1.0, 3.0, 0.2, 2.0], dtype=torch.float64)
    given = torch.where(labels < 0, 0.0, weights[labels.clamp_min(0)])

    class Task(ClassificationTask):
        loss = CrossEntropy(class_weights=weights.tolist(), mean_weight=float(given.mean()))

    expected = F.cross_entropy(logits, labels, weight=weights)
    assert Task().train_loss(logits, (None, labels)).mean() == pytest.approx(expected.item())


class Tokens(TokenClassificationTask):
    label_names = ("a", "b", "c")


TAGS = torch.tensor([[0, 2, -100, 1], [-100, 1, -100, -100], [-100] * 4])


def tokens() -> Tensor:
    with seeded(52):
        return torch.randn(3, 4, 3, dtype=torch.float64)


@pytest.mark.parametrize(
    ("reduction", "divisors"), [("mean", (3, 1)), ("sum", (1, 1)), (2.5, (2.5, 2.5))]
)
def test_tokens_are_reduced_as_asked(reduction, divisors):
    task, logits = Tokens(), tokens()
    task.reduction = reduction
    sums = F.cross_entropy(logits.mT, TAGS, reduction="none").sum(1)
    loss = task.train_loss(logits, (None, TAGS))
    expected = [float(sums[0]) / divisors[0], float(sums[1]) / divisors[1], 0]
    assert loss.tolist() == pytest.approx(expected, rel=1e-12)
    assert torch.equal(task.measurement(logits, (None, TAGS)), -loss)
    check_curvature(task, logits[:, :, :2], (None, TAGS % 2 + (TAGS < 0) * -100))


def test_padding_and_masked_tokens_count_nowhere():
    class Masked(Tokens):
        def mask_of(self, batch):
            return batch[2]

    labels, logits = TAGS.clamp_min(0), tokens()
    found = task_values(Masked(), logits, (None, labels, (TAGS >= 0).int()))
    assert torch.equal(found, task_values(Tokens(), logits, (None, TAGS)))
    longer = F.pad(logits, (0, 0, 0, 2), value=7.0)
    padded = task_values(Tokens(), longer, (None, F.pad(TAGS, (0, 2), value=-100)))
    assert_close(padded[0], task_values(Tokens(), logits, (None, TAGS))[0], tolerance=1e-14)


def test_tokens_may_be_pixels():
    logits = tokens().reshape(3, 2, 2, 3)
    found = task_values(Tokens(), logits, (None, TAGS.reshape(3, 2, 2)))
    assert_close(found, task_values(Tokens(), tokens(), (None, TAGS)), tolerance=1e-14)
    with pytest.raises(InputError, match=r"Example 1 .* has the label 5"):
        Tokens().train_loss(tokens(), (None, TAGS.where(TAGS != 1, 5).roll(1, 0)))


def test_describes_the_tokens_that_count():
    logits = F.one_hot(torch.tensor([[0, 2, 1, 1], [0, 0, 0, 2], [1] * 4])).double()
    described = Tokens().describe(logits, (None, TAGS))
    assert described == {"predicted_label": ["a c b", "a", ""]}


def test_batches_of_another_form_need_targets_only_where_the_curvature_does():
    class Named(ClassificationTask):
        def train_loss(self, outputs, batch):
            return super().train_loss(outputs, (None, batch["label"]))

    class WeightedNamed(Named):
        loss = Weighted.loss

    class Targets(Weighted):
        def targets_of(self, batch):
            return batch["label"]

    logits, labels = logits_and_labels()
    batch, generator = {"label": labels}, torch.Generator()
    plain = Named().sampled_loss(logits, generator.manual_seed(1), batch)
    assert torch.equal(plain, TASK.sampled_loss(logits, generator.manual_seed(1), (None, labels)))
    found = task_values(Targets(), logits, batch)
    assert torch.equal(found, task_values(Weighted(), logits, (None, labels)))
    with pytest.raises(KeyError):
        WeightedNamed().sampled_loss(logits, generator, batch)
    with pytest.raises(InputError, match=r"CrossEntropy depends on the targets. Call super"):
        Weighted().sampled_loss(logits, generator)


def test_a_task_of_another_kind_may_draw_as_a_classifier_does():
    class Own(TaskBase):
        def sampled_loss(self, outputs, generator):
            return ClassificationTask.sampled_loss(self, outputs, generator)

    outputs = torch.randn(3, 4, dtype=torch.float64)
    drawn = [
        task.sampled_loss(outputs, ExampleGenerator.for_examples([1, 2, 3]))
        for task in (Own(), ClassificationTask())
    ]
    assert torch.equal(*drawn)
