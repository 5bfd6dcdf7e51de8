"""Classification: one class of several, of an example or of each of its tokens."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sourcetrace.errors import InputError
from sourcetrace.tasks.loss_task import LossTask, ManyPartsTask, Parts
from sourcetrace.tasks.losses import CrossEntropy, Loss
from sourcetrace.tasks.losses.categorical import class_margins


class ClassificationTask(LossTask):
    """Cross-entropy, measured by the margin log p - log(1 - p) of the given label.

    Outputs are logits [B, C]; targets whole numbers, [B] or [B, 1], or a share a class, [B, C].
    Of those, the label is the class with the largest share.

    Attributes:
        loss: `CrossEntropy(…)` or `FocalLoss(…)`, with the options that the training had.
        label_names: Names of the classes in the order of the logits; numbers by default.
        ignored_index: Label of examples without one: their losses and measurement are 0.
    """

    measurement_higher_is_better = True
    measurement_name = "margin"
    loss: Loss = CrossEntropy()
    label_names: Sequence[str] | None = None
    ignored_index: int = -100

    def sampled_loss(
        self, outputs: Tensor, generator: torch.Generator, batch: Any = None
    ) -> Tensor:
        """See `LossTask`; tasks of another kind may call it by the class, for cross-entropy."""
        own = self if isinstance(self, ClassificationTask) else ClassificationTask()
        return LossTask.sampled_loss(own, outputs, generator, batch)

    def measurement(self, outputs: Tensor, batch: Any) -> Tensor:
        """Return log p - log(1 - p) of the given label, [B]."""
        outputs, targets, weights = self._parts(outputs, batch)
        return self._joined(class_margins(outputs, _classes(outputs, targets)), weights)

    def describe(self, outputs: Tensor, batch: Any) -> dict[str, list[Any]]:
        """Return the predicted label and the probability of the given one, B values each."""
        outputs, targets, weights = self._parts(outputs, batch)
        given = _classes(outputs, targets).unsqueeze(-1)
        shares = outputs.softmax(-1).gather(-1, given).squeeze(-1).tolist()
        known = [True] * len(shares) if isinstance(weights, float) else (weights > 0).tolist()
        return {
            "predicted_label": _label_texts(outputs, self.label_names),
            "given_label_probability": [
                p if is_known else None for p, is_known in zip(shares, known, strict=True)
            ],
        }

    def _parts(self, outputs: Tensor, batch: Any) -> Parts:
        if batch is None:
            return Parts(outputs, None)
        targets = self.targets_of(batch)
        if targets.shape == outputs.shape and targets.shape[-1] > 1:
            return Parts(outputs, targets.to(outputs))
        targets, known = _checked_classes(outputs, targets, self.ignored_index)
        return Parts(outputs, targets, known.to(outputs))


class TokenClassificationTask(ManyPartsTask):
    """A class a token: logits [B, T, C], labels [B, T]; or [B, …, C] and [B, …], as of pixels.

    Measured by minus the training loss.

    Attributes:
        loss: As of a `ClassificationTask`.
        label_names: Names of the classes in the order of the logits; numbers by default.
        ignored_index: Label of tokens that do not count.
    """

    measurement_higher_is_better = True
    loss: Loss = CrossEntropy()
    label_names: Sequence[str] | None = None
    ignored_index: int = -100

    def mask_of(self, batch: Any) -> Tensor | None:
        """Return which tokens count beside those of a label, [B, T], 0 or 1; None for all."""
        return None

    def describe(self, outputs: Tensor, batch: Any) -> dict[str, list[Any]]:
        """Return the predicted labels of an example's tokens that count as text, B values."""
        outputs, _, weights = self._parts(outputs, batch)
        known = torch.as_tensor(weights).flatten(1) > 0
        predicted = outputs.flatten(1, -2)
        return {
            "predicted_label": [
                " ".join(_label_texts(one[counts], self.label_names))
                for one, counts in zip(predicted, known, strict=True)
            ]
        }

    def _with_targets(self, batch: Any) -> Any:
        return batch  # which tokens count is in it

    def _labels(self, batch: Any) -> Tensor:
        """Return the label of every output, `ignored_index` where the mask leaves it out."""
        mask, labels = self.mask_of(batch), self.targets_of(batch)
        return labels if mask is None else labels.masked_fill(mask == 0, self.ignored_index)

    def _counted(self, batch: Any) -> Tensor:
        return self._labels(batch) != self.ignored_index

    def _parts(self, outputs: Tensor, batch: Any) -> Parts:
        targets, known = _checked_classes(outputs, self._labels(batch), self.ignored_index)
        return Parts(outputs, targets, self._weights(known.to(outputs)))

    def _signs(
        self, generator: torch.Generator, outputs: Tensor, weights: Tensor | float
    ) -> Tensor:
        # By the tokens that count, so that an example's draws do not change with its padding.
        known = torch.as_tensor(weights).flatten(1) > 0
        drawn = super()._signs(generator, outputs.flatten(1, -2), weights)
        places = (known.cumsum(1) - 1).clamp_min(0)
        own = torch.arange(known.shape[1], device=known.device)
        if bool(((places == own) | ~known).all()):  # the usual case; indexing would copy
            return drawn.reshape(outputs.shape)
        rows = torch.arange(len(known), device=known.device).unsqueeze(1)
        return drawn[rows, places].reshape(outputs.shape)


def _checked_classes(outputs: Tensor, targets: Tensor, ignored_index: int) -> tuple[Tensor, Tensor]:
    """Return class numbers, int64 [B, …], 0 for ignored ones, and which are not ignored.

    Raises:
        InputError: If they are no classes of logits [B, …, C].
    """
    wanted = outputs.shape[:-1]
    labels = targets.squeeze(-1) if targets.shape == (*wanted, 1) else targets
    if labels.shape != wanted or labels.is_floating_point():
        raise InputError(
            f"The outputs have shape {list(outputs.shape)} and the labels {list(targets.shape)}, "
            f"{targets.dtype}; expected whole numbers of shape {list(wanted)}"
            f"{', or a share a class' if outputs.ndim == 2 else ''}. "  # noqa: PLR2004
            "Logits have the classes last."
        )
    labels = labels.long()
    known = labels != ignored_index
    wrong = known & ((labels < 0) | (labels >= outputs.shape[-1]))
    if bool(wrong.any()):
        place = wrong.nonzero()[0].tolist()
        raise InputError(
            f"Example {place[0]} of the batch (counted from 0) has the label "
            f"{int(labels[tuple(place)])}, but the outputs have {outputs.shape[-1]} classes, 0 "
            f"to {outputs.shape[-1] - 1}. Correct the label, or set ignored_index (now "
            f"{ignored_index}) if it means that there is none."
        )
    return labels * known, known


def _label_texts(logits: Tensor, names: Sequence[str] | None) -> list[str]:
    """Return the name or number of the likeliest class, of logits [n, C]."""
    return [names[i] if names else str(i) for i in logits.argmax(-1).tolist()]


def _classes(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the given classes, [B], where targets may be a share a class."""
    return targets.argmax(-1) if targets.ndim == outputs.ndim else targets
