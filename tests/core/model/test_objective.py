"""The losses that the numerics ask for; the documented ones against the loss's own Hessian."""

import itertools
import re
from pathlib import Path

import pytest
import torch

from sourcetrace.core.model.objective import sampled_loss
from sourcetrace.tasks import ClassificationTask
from tests.tiny import assert_close, seeded

REPOSITORY = Path(__file__).parents[3]


def test_the_batch_is_given_to_those_who_ask_for_it():
    class Asks(ClassificationTask):
        def sampled_loss(self, outputs, generator, batch):
            return super().sampled_loss(outputs, generator) * batch

    class DoesNot(ClassificationTask):
        def sampled_loss(self, outputs, generator, scale=2.0):
            return super().sampled_loss(outputs, generator) * scale

    logits = torch.tensor([[0.0, 1.0], [2.0, -1.0]])

    def found(task):
        return sampled_loss(
            task, logits, torch.Generator().manual_seed(1), torch.tensor([3.0, 0.0])
        )

    plain = ClassificationTask().sampled_loss(logits, torch.Generator().manual_seed(1))
    assert torch.equal(found(Asks()), plain * torch.tensor([3.0, 0.0]))
    assert torch.equal(found(DoesNot()), plain * 2)


def documented_cases():
    """Return name -> outputs of one example, and a batch of it."""
    with seeded(21):
        tokens, labels = torch.randn(1, 4, 2).double(), torch.randn(1, 5).double()
    given = torch.tensor([[0, 1, 1, 0]])
    mask = torch.tensor([[1.0, 1.0, 0.0, 1.0]]).double()
    return {
        "TokenLabels": (tokens, (None, given, mask)),
        "ManyLabels": (labels, (None, torch.tensor([[0.0, 1.0, 1.0, 0.0, 0.0]]).double())),
    }


@pytest.mark.parametrize("name", ["TokenLabels", "ManyLabels"])
def test_the_documented_second_moments_are_the_hessians(name):
    page = (REPOSITORY / "docs" / "losses.md").read_text(encoding="utf-8")
    (code,) = [b for b in re.findall(r"```python\n(.*?)```", page, re.S) if "TokenLabels" in b]
    namespace = {}
    exec(code, namespace)
    task = namespace[name]()
    outputs, batch = documented_cases()[name]
    size = outputs.numel()
    hessian = torch.autograd.functional.hessian(
        lambda one: task.train_loss(one, batch).sum(), outputs
    )
    # Every combination of signs once is the expectation itself.
    signs = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=size))).double()
    namespace["signs"] = lambda _, shape, *, like: signs.reshape(shape).to(like)
    many = outputs.expand(len(signs), *outputs.shape[1:]).clone().requires_grad_()
    loss = sampled_loss(task, many, torch.Generator(), batch)
    assert loss.shape == (len(signs),)
    gradients = torch.autograd.grad(loss.sum(), many)[0].flatten(1)
    assert_close(gradients.T @ gradients / len(signs), hessian.reshape(size, size))
