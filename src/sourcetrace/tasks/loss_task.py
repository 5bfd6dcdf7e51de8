"""The losses of a task from one of a part: of the example itself, or of each of its many parts."""

from functools import cached_property
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor

from sourcetrace.core.model.objective import signs
from sourcetrace.errors import InputError
from sourcetrace.tasks.losses import Loss
from sourcetrace.tasks.protocol import Task, TaskBase


class Parts(NamedTuple):
    """What the losses are taken of.

    Attributes:
        outputs: As the loss wants them, [B, …] or [B, …, P].
        targets: Valid ones in any case, [B, …] (or [B, …, P]); None where the batch was left out.
        weights: Of every part, 0 where it is masked; a tensor [B, …], or 1.
    """

    outputs: Tensor
    targets: Any
    weights: Tensor | float = 1.0


class LossTask(TaskBase):
    """An example's loss is its one part's.

    Attributes:
        loss: Value and curvature of a part.
    """

    loss: Loss

    @property
    def exact_curvature(self) -> bool:
        """Whether the second moment of `sampled_loss` is the Hessian of `train_loss`."""
        return self.loss.exact

    def targets_of(self, batch: Any) -> Tensor:
        """Return the targets of a batch; the second of `(inputs, targets)`."""
        targets: Tensor = batch[1]
        return targets

    def train_loss(self, outputs: Tensor, batch: Any) -> Tensor:
        """Return the loss, [B]."""
        outputs, targets, weights = self._parts(outputs, batch)
        return self._joined(self.loss.value(outputs, targets), weights)

    def sampled_loss(
        self, outputs: Tensor, generator: torch.Generator, batch: Any = None
    ) -> Tensor:
        """Return a loss whose gradient has the loss's curvature as its second moment, [B].

        `batch` may be left out by a classification or regression whose curvature depends on no
        target, and is not looked at where a subclass has a `train_loss` but no `targets_of` of its
        own.
        """
        outputs, targets, weights = self._parts(outputs, self._with_targets(batch))
        noise = self._signs(generator, outputs.detach(), weights)
        drawn = outputs * self.loss.root(outputs.detach(), targets, noise)
        drawn = drawn.sum(-1) if self.loss.several_outputs else drawn
        return self._joined(drawn, weights**0.5)

    def _with_targets(self, batch: Any) -> Any:
        """Return the batch; None where it may have another form, and no targets are needed.

        Raises:
            InputError: If it was left out, and they are.
        """
        own = type(self).train_loss is not LossTask.train_loss
        if own and type(self).targets_of is LossTask.targets_of and not self.loss.needs_targets:
            return None
        if batch is None and self.loss.needs_targets:
            raise InputError(
                f"sampled_loss() of {type(self).__name__} was not given the batch, but the "
                f"curvature of {type(self.loss).__name__} depends on the targets. Call "
                "super().sampled_loss(outputs, generator, batch)."
            )
        return batch

    def _parts(self, outputs: Tensor, batch: Any) -> Parts:
        raise NotImplementedError

    def _signs(
        self, generator: torch.Generator, outputs: Tensor, weights: Tensor | float
    ) -> Tensor:
        """Return random signs for the outputs; those of weight 0 may have any."""
        return signs(generator, outputs.shape, like=outputs)

    def _joined(self, values: Tensor, weights: Tensor | float) -> Tensor:
        """Return the loss of every example from its part's, [B]."""
        return values if isinstance(weights, float) else values.where(weights > 0, 0.0) * weights


class ManyPartsTask(LossTask):
    """An example's loss is the mean or the sum over its parts.

    Attributes:
        reduction: "mean" or "sum" over an example's parts that are not masked, or a number that
            the sum is divided by. "batch_mean" where the training took the mean over all unmasked
            parts of a batch, whatever their number in an example: the sum is divided by their mean
            number in a training example.
    """

    reduction: Literal["mean", "sum", "batch_mean"] | float = "mean"

    def measurement(self, outputs: Tensor, batch: Any) -> Tensor:
        """Return the training loss, or minus it where higher is better, [B]."""
        losses = self.train_loss(outputs, batch)
        return -losses if self.measurement_higher_is_better else losses

    @cached_property
    def _mean_count(self) -> float:
        """Parts that are not masked, of a training example on average."""
        examples: Any = cast("Task", self).train_examples()
        total = sum(
            int(self._counted(self.collate([examples[index]])).sum())
            for index in range(len(examples))
        )
        if not total:
            raise InputError(
                f'{type(self).__name__}: no training example has a label, so that "batch_mean" '
                "divides by 0. Correct the labels or the mask."
            )
        return total / len(examples)

    def _counted(self, batch: Any) -> Tensor:
        """Return which parts are not masked, [B, …] bool."""
        return torch.ones_like(self.targets_of(batch), dtype=torch.bool)

    def _weights(self, known: Tensor) -> Tensor:
        """Return the weights of parts from which of them count, [B, …]."""
        if self.reduction == "sum":
            return known
        if self.reduction == "mean":
            count = known.reshape(len(known), -1).sum(1).clamp_min(1)
            return known / count.reshape(-1, *(1 for _ in known.shape[1:]))
        return known / (self._mean_count if self.reduction == "batch_mean" else self.reduction)

    def _joined(self, values: Tensor, weights: Tensor | float) -> Tensor:
        joined = super()._joined(values, weights)
        return joined.reshape(len(joined), -1).sum(1)
