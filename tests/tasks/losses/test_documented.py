"""The code in docs/reference/losses.md runs, and has the curvature that the page says."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from sourcetrace.tasks import RegressionTask, losses
from tests.tasks.losses.checks import check_curvature, every_sign
from tests.tiny import assert_close, seeded

PAGE = (Path(__file__).parents[3] / "docs" / "reference" / "losses.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def documented() -> SimpleNamespace:
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(block, names)
    return SimpleNamespace(**names, names=names)


def test_every_loss_is_on_the_page():
    assert [name for name in losses.__all__ if f"`{name}" not in PAGE and name != "Loss"] == []


def test_the_ready_made_ones_have_the_hessian(documented):
    with seeded(81):
        prices, tags = torch.randn(4).double(), torch.randn(2, 4, 2).double()
    check_curvature(documented.Prices(), prices, (None, torch.zeros(4).double()))
    labels, mask = torch.tensor([[0, 1, 1, 0], [1, 1, 0, 0]]), torch.tensor([[1, 1, 0, 1], [0] * 4])
    check_curvature(documented.Tags(), tags, (None, labels, mask))
    assert documented.Tags().train_loss(tags, (None, labels, mask))[1] == 0


def test_the_loss_of_ones_own_has_the_hessian(documented):
    class Task(RegressionTask):
        loss = documented.LogCosh()

    with seeded(82):
        outputs, targets = torch.randn(2, 3, 2).double()
    check_curvature(Task(), outputs, (None, targets))


def test_two_heads_have_the_hessian_and_none_between_them(documented):
    task = documented.ClassAndValue()
    batch = (None, torch.tensor([2]), torch.tensor([0.3]).double())
    with seeded(83):
        outputs = torch.randn(1, 4).double()

    def heads(values: Tensor) -> tuple[Tensor, Tensor]:
        return values[:, :3], values[:, 3]

    expected = torch.autograd.functional.hessian(
        lambda one: task.train_loss(heads(one), batch).sum(), outputs
    ).reshape(4, 4)
    noise = every_sign(4)
    parts = iter(heads(noise))
    many = outputs.repeat(16, 1).requires_grad_()
    repeated = (None, *(part.expand(16) for part in batch[1:]))
    with patch.dict(documented.names, signs=lambda *_, like: next(parts).to(like)):
        drawn = task.sampled_loss(heads(many), torch.Generator(), repeated)
    assert drawn.shape == (16,)
    (gradients,) = torch.autograd.grad(drawn.sum(), many)
    assert_close(gradients.T @ gradients / 16, expected)
