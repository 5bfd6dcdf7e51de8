"""Every loss against torch's own, and the second moment of its root against its Hessian."""

import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812, the name everybody reads
from torch import Tensor, nn

from sourcetrace.errors import InputError
from sourcetrace.tasks.losses import (
    AbsoluteError,
    BinaryCrossEntropy,
    BinaryFocalLoss,
    CrossEntropy,
    FocalLoss,
    Gamma,
    GaussianNLL,
    Huber,
    Poisson,
    Quantile,
    SmoothL1,
    SquaredError,
    Tweedie,
)
from tests.tasks.losses.checks import hessian, second_moment
from tests.tiny import assert_close, seeded

WEIGHTS = (0.5, 2.0, 1.0, 3.0)
CLASSES = torch.tensor([2, 0, 3, 3, 1])
with seeded(91):
    LOGITS = 2 * torch.randn(5, 4, dtype=torch.float64)
    SHARES = torch.rand(5, 4, dtype=torch.float64)
    NUMBERS = 2 * torch.randn(8, dtype=torch.float64)
    TARGETS = 2 * torch.randn(8, dtype=torch.float64)
    MEANS = torch.randn(8, 2, dtype=torch.float64)
ZEROS_AND_ONES = (TARGETS > 0).double()
AMOUNTS = TARGETS.clamp_min(0)


def focal(logits: Tensor, targets: Tensor) -> Tensor:
    p = logits.softmax(1)[torch.arange(len(targets)), targets]
    return -((1 - p) ** 1.5) * p.log()


def focal_of_torchvision(logits: Tensor, targets: Tensor) -> Tensor:
    p = logits.sigmoid()
    loss = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    given = p * targets + (1 - p) * (1 - targets)
    return (0.25 * targets + 0.75 * (1 - targets)) * loss * (1 - given) ** 2


def tweedie(outputs: Tensor, targets: Tensor) -> Tensor:
    mean, power = outputs.exp(), 1.4
    return -targets * mean ** (1 - power) / (1 - power) + mean ** (2 - power) / (2 - power)


def with_weights(**options: float) -> nn.CrossEntropyLoss:
    weight = torch.tensor(WEIGHTS, dtype=torch.float64)
    return nn.CrossEntropyLoss(reduction="none", weight=weight, **options)


VALUES = {
    "cross-entropy": (CrossEntropy(), LOGITS, CLASSES, nn.CrossEntropyLoss(reduction="none")),
    "soft labels": (CrossEntropy(), LOGITS, SHARES, nn.CrossEntropyLoss(reduction="none")),
    "weights": (
        CrossEntropy(class_weights=WEIGHTS, mean_weight=2.0),
        LOGITS,
        CLASSES,
        lambda z, y: with_weights()(z, y) / 2,
    ),
    "weights, smoothing": (
        CrossEntropy(class_weights=WEIGHTS, mean_weight=1.0, label_smoothing=0.2),
        LOGITS,
        CLASSES,
        with_weights(label_smoothing=0.2),
    ),
    "soft labels, weights, smoothing": (
        CrossEntropy(class_weights=WEIGHTS, mean_weight=1.0, label_smoothing=0.2),
        LOGITS,
        SHARES,
        with_weights(label_smoothing=0.2),
    ),
    "focal": (FocalLoss(gamma=1.5), LOGITS, CLASSES, focal),
    "binary": (
        BinaryCrossEntropy(),
        NUMBERS,
        ZEROS_AND_ONES,
        nn.BCEWithLogitsLoss(reduction="none"),
    ),
    "binary, weight, smoothing": (
        BinaryCrossEntropy(pos_weight=3.0, label_smoothing=0.1),
        NUMBERS,
        ZEROS_AND_ONES,
        lambda z, y: nn.BCEWithLogitsLoss(reduction="none", pos_weight=torch.tensor(3.0))(
            z, 0.9 * y + 0.05
        ),
    ),
    "binary focal": (BinaryFocalLoss(), NUMBERS, ZEROS_AND_ONES, focal_of_torchvision),
    "squared": (SquaredError(), NUMBERS, TARGETS, nn.MSELoss(reduction="none")),
    "Huber": (Huber(2.0), NUMBERS, TARGETS, nn.HuberLoss(reduction="none", delta=2.0)),
    "smooth L1": (SmoothL1(2.5), NUMBERS, TARGETS, nn.SmoothL1Loss(reduction="none", beta=2.5)),
    "absolute": (AbsoluteError(width=1.0), NUMBERS, TARGETS, nn.L1Loss(reduction="none")),
    "quantile": (
        Quantile(0.9, width=1.0),
        NUMBERS,
        TARGETS,
        lambda z, y: torch.where(y > z, 0.9 * (y - z), 0.1 * (z - y)),
    ),
    "Poisson": (Poisson(), NUMBERS, AMOUNTS, nn.PoissonNLLLoss(reduction="none")),
    "Gamma": (Gamma(), NUMBERS, AMOUNTS, lambda z, y: z + y / z.exp()),
    "Tweedie": (Tweedie(1.4), NUMBERS, AMOUNTS, tweedie),
    "Gaussian": (
        GaussianNLL(),
        MEANS,
        TARGETS,
        lambda z, y: nn.GaussianNLLLoss(reduction="none")(z[:, 0], y, z[:, 1].exp()),
    ),
    "Gaussian, variance": (
        GaussianNLL(log_variance=False),
        MEANS.abs(),
        TARGETS,
        lambda z, y: nn.GaussianNLLLoss(reduction="none")(z[:, 0], y, z[:, 1]),
    ),
}


@pytest.mark.parametrize("name", VALUES)
def test_the_value_is_the_usual_one(name):
    loss, outputs, targets, expected = VALUES[name]
    assert_close(loss.value(outputs, targets), expected(outputs, targets), tolerance=1e-12)


@pytest.mark.parametrize("name", [name for name in VALUES if VALUES[name][0].exact])
def test_the_second_moment_is_the_hessian(name):
    loss, outputs, targets, _ = VALUES[name]
    found = [second_moment(loss, *pair) for pair in zip(outputs, targets, strict=True)]
    expected = [hessian(loss, *pair) for pair in zip(outputs, targets, strict=True)]
    assert_close(torch.stack(found), torch.stack(expected))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 5.0])
def test_focal_curvature_is_the_hessian_but_where_the_label_is_unlikely(gamma):
    """There it is larger: what is left out is negative."""
    loss = FocalLoss(gamma=gamma, class_weights=(2.0, 1.0, 0.5), mean_weight=1.0)
    exact = 0
    for given in torch.linspace(-8, 12, 21, dtype=torch.float64):
        logits, label = torch.stack([given, torch.zeros_like(given), given.new_tensor(1.0)]), 0
        found = second_moment(loss, logits, torch.tensor(label))
        expected = hessian(loss, logits, torch.tensor(label))
        if logits.softmax(0)[0] > 0.06 or gamma == 0:
            assert_close(found, expected, tolerance=1e-9)
            exact += 1
        missing = torch.linalg.eigvalsh(found - expected)
        assert missing.min() > -1e-10 * found.abs().max()
    assert exact > 9


@pytest.mark.parametrize("target", [0.0, 1.0])
def test_binary_focal_curvature_is_the_hessian_where_that_is_positive(target):
    loss = BinaryFocalLoss(gamma=2.0, alpha=0.3)
    for logit in torch.linspace(-9, 9, 19, dtype=torch.float64):
        given = torch.tensor(target, dtype=torch.float64)
        found, expected = second_moment(loss, logit, given), hessian(loss, logit, given)
        assert float(found) == pytest.approx(max(float(expected), 0), rel=1e-9, abs=1e-15)
        likely = float(((2 * target - 1) * logit).sigmoid()) > 0.06
        assert float(expected) > 0 or not likely


@pytest.mark.parametrize(
    ("loss", "share"),
    [(Quantile(0.9, 0.5), 1.0), (Quantile(0.2, 0.5), 1.0), (AbsoluteError(0.5), 2.0)],
)
def test_kinks_are_as_curved_as_targets_are_dense(loss, share):
    """Of targets from a triangle, with a window in which the density is linear."""
    targets = torch.linspace(-1, 1, 200001, dtype=torch.float64)
    density = 1 - targets.abs()
    z = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)

    def mean(values: Tensor) -> Tensor:
        return (values * density).sum() * 1e-5

    # The second derivative of the mean loss over these targets, by a difference of first ones.
    slopes = [
        torch.autograd.grad(mean(loss.value(z + step, targets)), z)[0] for step in (0.01, -0.01)
    ]
    bend = float(slopes[0] - slopes[1]) / 0.02
    assert bend == pytest.approx(0.5 * share, rel=1e-3)
    curvature = mean(loss.curvature(z.detach().expand_as(targets), targets))
    assert float(curvature) == pytest.approx(bend, rel=1e-3)


@pytest.mark.parametrize("loss", [Quantile(0.9, 0.5), AbsoluteError(0.5)])
@pytest.mark.parametrize("difference", [0.1, -0.3, 0.7, -2.0])
def test_kinks_have_the_curvature_of_the_loss_convolved_with_the_window(loss, difference):
    window = (torch.arange(100000, dtype=torch.float64) + 0.5) / 100000 - 0.5  # of width 2 h
    target = torch.zeros_like(window)

    def slope(z: float) -> float:
        shifted = (z + window).requires_grad_()
        return float(torch.autograd.grad(loss.value(shifted, target).sum(), shifted)[0].mean())

    found = float(loss.curvature(*torch.tensor([[difference], [0.0]])))
    expected = (slope(difference + 0.05) - slope(difference - 0.05)) / 0.1
    assert found == pytest.approx(expected, rel=1e-3, abs=1e-9)


@pytest.mark.parametrize("log_variance", [True, False])
def test_gaussian_curvature_is_the_hessian_at_residuals_as_large_as_predicted(log_variance):
    """Two targets a standard deviation off have a normal's first two moments."""
    loss = GaussianNLL(log_variance=log_variance)
    for variance in (0.3, 2.0):
        second = math.log(variance) if log_variance else variance
        outputs = torch.tensor([0.7, second], dtype=torch.float64)
        found = second_moment(loss, outputs, outputs[0])
        both = [hessian(loss, outputs, outputs[0] + sign * variance**0.5) for sign in (-1, 1)]
        assert_close(found, (both[0] + both[1]) / 2)


@pytest.mark.parametrize("variance", [0.0, 1e-9, 1e-6, 0.5])
def test_gradient_and_curvature_of_a_variance_below_eps_are_torchs(variance):
    loss = GaussianNLL(log_variance=False)
    outputs = torch.tensor([[0.7, variance]], dtype=torch.float64, requires_grad=True)
    target = torch.tensor([1.0], dtype=torch.float64)
    (found,) = torch.autograd.grad(loss.value(outputs, target).sum(), outputs)
    expected = nn.GaussianNLLLoss()(outputs[:, 0], target, outputs[:, 1].clone())
    assert_close(found, torch.autograd.grad(expected, outputs)[0])
    raised = torch.tensor([0.7, max(variance, loss.eps)], dtype=torch.float64)
    assert_close(*(second_moment(loss, z, z[0]) for z in (outputs[0].detach(), raised)))


def test_a_label_may_have_a_weight_of_its_own():
    loss = BinaryCrossEntropy(pos_weight=(1.0, 4.0))
    z, y = torch.zeros(1, 2, dtype=torch.float64), torch.ones(1, 2, dtype=torch.float64)
    assert_close(loss.value(z, y), math.log(2) * torch.tensor([[1.0, 4.0]]).double())
    assert_close(loss.curvature(z, y), torch.tensor([[0.25, 1.0]]).double())


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sure_models_give_finite_numbers(name, dtype):
    loss, outputs, targets, _ = VALUES[name]
    large = 60.0 if isinstance(loss, Tweedie | GaussianNLL) else 800.0
    targets = targets.to(dtype) if targets.is_floating_point() else targets
    for scale in (large, -large):
        z = (scale * outputs.to(dtype).sign()).requires_grad_()
        value = loss.value(z, targets)
        (gradient,) = torch.autograd.grad(value.sum(), z)
        drawn = loss.root(z.detach(), targets, torch.ones_like(z))
        assert all(bool(one.isfinite().all()) for one in (value, gradient, drawn))


def test_class_weights_need_their_mean():
    with pytest.raises(InputError, match=r"weights\[labels\].mean"):
        CrossEntropy(class_weights=WEIGHTS)
    with pytest.raises(InputError, match="4 class_weights for outputs of 3 classes"):
        CrossEntropy(class_weights=WEIGHTS, mean_weight=1.0).value(LOGITS[:, :3], CLASSES)


def test_a_negative_curvature_is_refused_and_not_taken_for_no_number():
    with pytest.raises(InputError, match=r"Gamma: the curvature of a target is -2; expected 0"):
        Gamma().root(torch.zeros(2), torch.tensor([1.0, -2.0]), torch.ones(2))


def test_focal_loss_wants_one_class():
    with pytest.raises(InputError, match="argmax"):
        FocalLoss().value(LOGITS, SHARES)
