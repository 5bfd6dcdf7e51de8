"""Labels 0 or 1, with a logit each: one an example, or one of several that may hold together."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from sourcetrace.errors import InputError
from sourcetrace.tasks.loss_task import LossTask, ManyPartsTask, Parts
from sourcetrace.tasks.losses import BinaryCrossEntropy, Loss


class BinaryTask(LossTask):
    """One logit an example, [B] or [B, 1], measured by the margin log p - log(1 - p) of the label.

    Targets are 0 or 1, or between, of any type, [B] or [B, 1].

    Attributes:
        loss: `BinaryCrossEntropy(…)` or `BinaryFocalLoss(…)`, with the options of the training.
        label_names: Names of labels 0 and 1.
    """

    measurement_higher_is_better = True
    measurement_name = "margin"
    loss: Loss = BinaryCrossEntropy()
    label_names: Sequence[str] = ("0", "1")

    def measurement(self, outputs: Tensor, batch: Any) -> Tensor:
        """Return logit · (2 · label - 1), [B]."""
        logits, targets, _ = self._parts(outputs, batch)
        margins: Tensor = logits * (2 * targets - 1)
        return margins

    def describe(self, outputs: Tensor, batch: Any) -> dict[str, list[Any]]:
        """Return the predicted label and the probability of the given one, B values each."""
        outputs, targets, _ = self._parts(outputs, batch)
        share = targets * outputs.sigmoid() + (1 - targets) * (-outputs).sigmoid()
        return {
            "predicted_label": [self.label_names[logit > 0] for logit in outputs.tolist()],
            "given_label_probability": share.tolist(),
        }

    def _parts(self, outputs: Tensor, batch: Any) -> Parts:
        logits = _column(outputs)
        return Parts(logits, _checked(logits, _column(self.targets_of(batch))))


class MultiLabelTask(ManyPartsTask):
    """A logit a label, [B, C]: any number of labels holds. Measured by minus the training loss.

    Targets are 0 or 1, [B, C], of any type; NaN or -1 where it is not known.

    Attributes:
        loss: `BinaryCrossEntropy(…)` or `BinaryFocalLoss(…)`, with the options of the training.
        label_names: Names of the labels in the order of the logits; numbers by default.
    """

    measurement_higher_is_better = True
    loss: Loss = BinaryCrossEntropy()
    label_names: Sequence[str] | None = None

    def describe(self, outputs: Tensor, batch: Any) -> dict[str, list[Any]]:
        """Return the labels of a probability above 1/2 as text, B values."""
        names = self.label_names or [str(i) for i in range(outputs.shape[1])]
        return {
            "predicted_label": [
                ", ".join(name for name, p in zip(names, row, strict=True) if p) or "none"
                for row in (outputs > 0).tolist()
            ]
        }

    def _counted(self, batch: Any) -> Tensor:
        targets = self.targets_of(batch)
        return ~(targets.isnan() | (targets == -1))

    def _parts(self, outputs: Tensor, batch: Any) -> Parts:
        targets, known = self.targets_of(batch), self._counted(batch)
        targets = _checked(outputs, targets.masked_fill(~known, 0))
        return Parts(outputs, targets, self._weights(known.to(outputs)))


def _column(values: Tensor) -> Tensor:
    return values.squeeze(-1) if values.ndim == 2 else values  # noqa: PLR2004


def _checked(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the targets as numbers of the logits' type.

    Raises:
        InputError: If they are of another shape, or not between 0 and 1.
    """
    if logits.shape != targets.shape:
        raise InputError(
            f"The outputs have shape {list(logits.shape)} and the targets {list(targets.shape)}; "
            "expected one logit a target. For two logits and one class derive the task from "
            "ClassificationTask."
        )
    wrong = ~((targets >= 0) & (targets <= 1))
    if bool(wrong.any()):
        place = wrong.nonzero()[0].tolist()
        raise InputError(
            f"Example {place[0]} of the batch (counted from 0) has the target "
            f"{targets[tuple(place)].item():.6g}; expected 0 or 1, or a probability. Labels -1 and "
            "1 of one logit are (y + 1) / 2."
        )
    return targets.to(logits)
