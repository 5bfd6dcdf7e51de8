"""Language models: logits of a token at every position of a sequence."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F  # noqa: N812, the name everybody reads
from torch import Tensor, nn

from sourcetrace.errors import InputError
from sourcetrace.tasks.classification import TokenClassificationTask
from sourcetrace.tasks.loss_task import Parts
from sourcetrace.tasks.losses import CrossEntropy
from sourcetrace.tasks.named_inputs import logits_of, padded

_OWN = frozenset({"labels", "measured"})
"""What a batch holds for the losses alone."""


class LanguageModelTask(TokenClassificationTask):
    """Logits [B, T, V] of the next token, measured by its mean loss or its log-probability.

    A batch is a mapping, as models of transformers take it: `input_ids` [B, T], what else the model
    takes by name (`attention_mask`, `position_ids`, …), and for the losses

    - `labels` [B, T], aligned with `input_ids`, `ignored_index` where a token has no loss (of a
      prompt, of padding, the first of each sequence that is packed into a row); by default the
      `input_ids` where `attention_mask` is 1 (there is no loss at padding in any case);
    - `measured` [B, T], 1 at the labels that the measurement is taken of; by default all.

    For other models it is the tokens [B, T], or `(tokens, labels)`; they are called with the tokens
    and return logits, alone or as `.logits`. Labels are shifted here, once. An example is a row of
    the batch: where several sequences are packed into it, they are scored together.

    Attributes:
        reduction: As of a `ManyPartsTask`; by default the mean over all tokens of a batch, as the
            Trainer of transformers and `F.cross_entropy` of flattened logits take it.
        next_token: Whether the logits at a position are of the next label. False where they are of
            its own: labels that the data shifts already, encoder–decoder and masked models.
        measures: Of the measured tokens, the mean "loss", where lower is better, or the sum of
            their "log_probability", where higher is.
    """

    reduction: Literal["mean", "sum", "batch_mean"] | float = "batch_mean"
    next_token: bool = True
    measures: Literal["loss", "log_probability"] = "loss"

    @property
    def measurement_higher_is_better(self) -> bool:  # type: ignore[override]  # follows `measures`
        """Whether log-probabilities are measured."""
        return self.measures == "log_probability"

    @property
    def measurement_name(self) -> str:
        """What `measures` is called."""
        return self.measures.replace("_", "-")

    def collate(self, items: Sequence[Any]) -> Any:
        """Join items; mappings are padded on the right, and their attention masks added."""
        if not isinstance(items[0], Mapping):
            return super().collate(items)
        unequal = len({len(item["input_ids"]) for item in items}) > 1
        # With positions of its own a row may be several sequences, which a mask would join.
        if unequal and not {"attention_mask", "position_ids"} & set(items[0]):
            items = [
                {**item, "attention_mask": torch.ones(len(item["input_ids"]), dtype=torch.int64)}
                for item in items
            ]
        return padded(items, fill={"labels": self.ignored_index})

    def forward(self, model: nn.Module, batch: Any) -> Any:
        """Return the model's logits, [B, T, V]."""
        if not isinstance(batch, Mapping):
            return logits_of(model, _tokens(batch))
        inputs = {name: one for name, one in batch.items() if name not in _OWN}
        config = getattr(model, "config", None)
        if hasattr(config, "use_cache"):
            # As the Trainer: with a cache, positions do not show where packed sequences begin.
            inputs["use_cache"] = False
        if getattr(config, "is_encoder_decoder", False):
            if self.next_token:
                raise InputError(
                    f"The model is an encoder with a decoder, whose outputs are of the labels "
                    f"themselves; expected those of the next. Set next_token = False in "
                    f"{type(self).__name__}."
                )
            made = getattr(model, "prepare_decoder_input_ids_from_labels", None)
            if made is not None and "decoder_input_ids" not in inputs:
                inputs["decoder_input_ids"] = made(labels=batch["labels"])
        return logits_of(model, inputs)

    def targets_of(self, batch: Any) -> Tensor:
        """Return the label of every token, not shifted, [B, T]."""
        if not isinstance(batch, Mapping):
            labels: Tensor = batch if isinstance(batch, Tensor) else batch[:2][-1]
            return labels
        if "labels" in batch:
            labels = batch["labels"]
            return labels
        return self._unpadded(batch["input_ids"], batch)

    def measurement(self, outputs: Tensor, batch: Any) -> Tensor:
        """Return what `measures` says, [B]."""
        outputs, targets, weights = self._parts(outputs, batch)
        chosen = torch.as_tensor(weights) > 0
        if isinstance(batch, Mapping) and "measured" in batch:
            chosen = chosen & (self._placed(batch["measured"], 0) > 0)
        if self.measures == "log_probability":
            return -CrossEntropy().value(outputs, targets).where(chosen, 0).sum(1)
        return _mean(self.loss.value(outputs, targets), chosen)

    def describe(self, outputs: Tensor, batch: Any) -> dict[str, list[Any]]:
        """Return the mean loss of an example's tokens and its exponential as text, B values."""
        outputs, targets, weights = self._parts(outputs, batch)
        losses = _mean(CrossEntropy().value(outputs, targets), torch.as_tensor(weights) > 0)
        return {
            "predicted_label": [
                f"{loss:.3f} a token (perplexity {perplexity:.4g})"
                for loss, perplexity in zip(losses.tolist(), losses.exp().tolist(), strict=True)
            ]
        }

    def _labels(self, batch: Any) -> Tensor:
        labels = super()._labels(batch)
        if not self.next_token:
            return labels
        named = isinstance(batch, Mapping)
        _refuse_shifted(labels, batch["input_ids"] if named else _tokens(batch))
        if not named:
            return self._placed(labels, self.ignored_index)
        # Nor is padding on the left a context of the first token, which has none without it.
        placed = self._placed(self._unpadded(labels, batch), self.ignored_index)
        return self._unpadded(placed, batch)

    def _unpadded(self, labels: Tensor, batch: Mapping[str, Any]) -> Tensor:
        """Return labels, [B, T], without those where there is padding."""
        mask = batch.get("attention_mask")
        if mask is None or mask.shape != labels.shape:
            return labels
        return labels.masked_fill(mask == 0, self.ignored_index)

    def _placed(self, values: Tensor, fill: int) -> Tensor:
        """Return what belongs to the labels, [B, T], where the logits of them are."""
        return F.pad(values[:, 1:], (0, 1), value=fill) if self.next_token else values

    def _parts(self, outputs: Tensor, batch: Any) -> Parts:
        low = outputs.dtype in (torch.bfloat16, torch.float16)
        return super()._parts(outputs.float() if low else outputs, batch)


def _tokens(batch: Any) -> Tensor:
    tokens: Tensor = batch if isinstance(batch, Tensor) else batch[0]
    return tokens


def _mean(values: Tensor, chosen: Tensor) -> Tensor:
    """Return the mean of the chosen values of every row, [B]; 0 where there are none."""
    return values.where(chosen, 0).sum(1) / chosen.sum(1).clamp_min(1)


def _refuse_shifted(labels: Tensor, tokens: Tensor) -> None:
    """Refuse labels that are the next tokens already, which would be shifted twice."""
    if labels.shape != tokens.shape or torch.equal(labels, tokens):
        return
    if labels.shape[1] > 2 and torch.equal(labels[:, :-1], tokens[:, 1:]):  # noqa: PLR2004
        raise InputError(
            "The labels are the next tokens already; expected labels that are aligned with "
            "input_ids. Set next_token = False, or give the tokens alone."
        )
