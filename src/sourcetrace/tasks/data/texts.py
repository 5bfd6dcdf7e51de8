"""Texts, cut into tokens by a tokenizer of Hugging Face's transformers."""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl
from pydantic import Field
from torch import nn
from torch.utils.data import default_collate

from sourcetrace.errors import InputError
from sourcetrace.tasks.data.base import DataArguments
from sourcetrace.tasks.data.pretrained import load_tokenizer
from sourcetrace.tasks.data.tokens import TokenizedData
from sourcetrace.tasks.named_inputs import logits_of, padded
from sourcetrace.validation import validated


class _TextArguments(DataArguments):
    """Arguments of `TextData`, beside those of every adapter.

    Attributes:
        text: Column of the texts.
        pair: Column of second texts, where the model reads two.
        tokenizer: Folder that `save_pretrained` of the training's tokenizer wrote; the Trainer
            saves one beside the weights.
        max_length: Tokens at which a text is cut; by default the tokenizer's own limit.
    """

    text: str = "text"
    pair: str | None = None
    tokenizer: str
    max_length: int | None = Field(default=None, ge=1)


class TextData(TokenizedData):
    """Tokens by name (`input_ids`, `attention_mask`, …), [T] each, padded in the batch.

    The model is called with those of them that it has arguments for, as the Trainer calls it, and
    its `logits` are the outputs.

    Args:
        arguments: See `_TextArguments`.
    """

    def __init__(self, **arguments: Any) -> None:
        self._text = validated(_TextArguments, arguments, name="task.arguments")
        self._tokenizer = load_tokenizer(self._text.tokenizer)
        if self._tokenizer.pad_token_id is None:
            raise InputError(
                f"task.arguments.tokenizer: {self._text.tokenizer} has no padding token. "
                "Set the one of the training, tokenizer.pad_token = …, and save it again."
            )
        super().__init__(self._text)

    def collate(self, items: Sequence[Any]) -> Any:
        """Return tokens by name, [B, T], padded to the longest, and the targets, [B]."""
        tokens = padded(
            [item[0] for item in items],
            fill={
                "input_ids": self._tokenizer.pad_token_id,
                "token_type_ids": self._tokenizer.pad_token_type_id,
            },
            side=self._tokenizer.padding_side,
        )
        return (tokens, *(default_collate([item[1] for item in items]) for _ in items[0][1:]))

    def forward(self, model: nn.Module, batch: Any) -> Any:
        """Return the model's logits for the tokens."""
        return logits_of(model, batch[0])

    def _columns(self) -> Sequence[str]:
        return [self._text.text, *filter(None, [self._text.pair])]

    def _cut(self, texts: pl.DataFrame) -> Mapping[str, Any]:
        options = self._limit(self._text.max_length)
        found: Mapping[str, Any] = self._tokenizer(
            *(one.to_list() for one in texts.get_columns()), **options
        )
        return found
