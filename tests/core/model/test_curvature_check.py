"""A sampled loss that is off by the number of tokens or labels is found."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812, the name everybody reads
from torch import Tensor

from sourcetrace.core.model.curvature_check import sampled_loss_share
from sourcetrace.core.model.objective import ExampleGenerator
from sourcetrace.tasks import ClassificationTask, RegressionTask
from tests.tiny import seeded


class Mean(ClassificationTask):
    """The mean over tokens, with labels drawn: its curvature is too small by their number."""

    def train_loss(self, outputs: Tensor, batch: Any) -> Tensor:
        return F.cross_entropy(outputs.mT, batch[1], reduction="none").mean(1)

    def sampled_loss(self, outputs: Tensor, generator: torch.Generator) -> Tensor:  # type: ignore[override]
        return super().sampled_loss(outputs, generator).mean(1)


class Logarithm(RegressionTask):
    """A loss without a value at outputs of 0."""

    def train_loss(self, outputs: Tensor, batch: Any) -> Tensor:
        return (outputs.log() - batch[1]).square()


class Doubled(RegressionTask):
    def train_loss(self, outputs: Tensor, batch: Any) -> Tensor:
        return 2 * super().train_loss(outputs, batch)


def share(task: Any, shape: tuple[int, ...], labels: Tensor) -> float | None:
    with seeded(31):
        outputs = (10 * torch.randn(shape)).requires_grad_()
    generators = (ExampleGenerator.for_examples([draw, draw + 1000]) for draw in range(128))
    return sampled_loss_share(task, outputs * 1.0, (None, labels), generators)


@pytest.mark.parametrize(
    ("task", "shape", "expected"),
    [
        (ClassificationTask(), (2, 2), 1.0),
        (ClassificationTask(), (2, 10), 1.0),
        (Mean(), (2, 5, 3), 0.2),
        (RegressionTask(), (2,), 1.0),
        (Doubled(), (2,), 0.5),
    ],
)
def test_the_share_is_known(task, shape, expected):
    labels = torch.zeros(shape[:-1] if len(shape) > 1 else shape)
    labels = labels if len(shape) == 1 else labels.long()
    assert share(task, shape, labels) == pytest.approx(expected, rel=0.25)


def test_a_stated_substitute_is_not_judged():
    class Far(Doubled):
        exact_curvature = False

    assert share(Far(), (2,), torch.zeros(2)) is None


def test_what_has_no_curvature_at_0_is_not_judged():
    assert share(Logarithm(), (2,), torch.zeros(2)) is None
    assert sampled_loss_share(RegressionTask(), torch.zeros(2), (None, torch.zeros(2)), []) is None
