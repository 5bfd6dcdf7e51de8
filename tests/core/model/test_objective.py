"""The losses that the numerics ask for."""

import torch

from sourcetrace.core.model.objective import sampled_loss
from sourcetrace.tasks import ClassificationTask


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
