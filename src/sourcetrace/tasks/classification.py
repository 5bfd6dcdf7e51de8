"""Classification: logits [B, C] and one class a target, [B]."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812, the name everybody reads
from torch import Tensor

from sourcetrace.core.model.objective import signs
from sourcetrace.tasks.protocol import TaskBase


class ClassificationTask(TaskBase):
    """Cross-entropy, measured by the margin log p - log(1 - p) of the given label.

    Attributes:
        label_names: Names of the classes in the order of the logits; numbers by default.
    """

    measurement_higher_is_better = True
    label_names: Sequence[str] | None = None

    def train_loss(self, outputs: Tensor, batch: Any) -> Tensor:
        """Return the cross-entropy of the given labels, [B]."""
        return F.cross_entropy(outputs, batch[1], reduction="none")

    def sampled_loss(
        self, outputs: Tensor, generator: torch.Generator, batch: Any = None
    ) -> Tensor:
        """Return a loss whose logit gradient has the Fisher matrix diag(p) - p pᵀ, [B].

        A label y drawn from the softmax gives the gradient p - e_y: almost always nearly zero
        where the model is sure, rarely large, so a data set's worth of draws estimates the
        curvature badly. B ε with B Bᵀ = diag(p) - p pᵀ and random signs ε has the same second
        moment and a steady length (*derived*: B = diag(√p) - p √pᵀ).
        """
        probabilities = outputs.detach().softmax(-1)
        draws = probabilities.sqrt() * signs(generator, list(outputs.shape), like=probabilities)
        gradient = draws - probabilities * draws.sum(-1, keepdim=True)
        return (outputs * gradient).sum(-1)

    def measurement(self, outputs: Tensor, batch: Any) -> Tensor:
        """Return log p - log(1 - p) of the given label, [B]."""
        given = outputs.gather(-1, batch[1].unsqueeze(-1)).squeeze(-1)
        others = outputs.scatter(-1, batch[1].unsqueeze(-1), -torch.inf)
        # log p - log(1 - p) = logit - logsumexp of the other logits; exact where p is near 1.
        return given - others.logsumexp(-1)

    def describe(self, outputs: Tensor, batch: Any) -> dict[str, list[Any]]:
        """Return the predicted label and the probability of the given one, B values each."""
        probabilities = outputs.softmax(-1)
        predicted = probabilities.argmax(-1).tolist()
        names = self.label_names
        return {
            "predicted_label": [names[i] if names else str(i) for i in predicted],
            "given_label_probability": probabilities.gather(-1, batch[1].unsqueeze(-1))
            .squeeze(-1)
            .tolist(),
        }
