"""Texts that a language model was trained on, the model and its tokenizer from a folder."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Any, Self

import polars as pl
from pydantic import Field, model_validator
from torch import nn
from torch.utils.data import Dataset

from sourcetrace.errors import InputError
from sourcetrace.tasks.data.base import DataArguments
from sourcetrace.tasks.data.pretrained import files_digest, load_tokenizer, model_of, read_config
from sourcetrace.tasks.data.sources import ROW, Rows
from sourcetrace.tasks.data.tokens import TOKENS, TokenizedData
from sourcetrace.tasks.language_model import LanguageModelTask
from sourcetrace.validation import validated

_PACKED = "packed"
"""Column of the texts in a block."""

_BATCH = "batch of texts"
"""Column of the number of the texts that are cut together."""

_PACKED_AT_ONCE = 1000
"""Texts whose tokens are cut into blocks together, as `datasets.map` hands them to run_clm."""


class _LanguageArguments(DataArguments):
    """Arguments of `LanguageData`, beside those of every adapter.

    Attributes:
        text: Column of the texts, where all of a text has a loss.
        prompt: In its place, the column of what comes before the text that has one,
        completion: and that text's.
        model: Folder with the model's `config.json`, such as one of the checkpoints.
        adapter: Folder with the `adapter_config.json` of LoRA adapters; by default the model's.
        tokenizer: Folder of the tokenizer; by default the model's.
        max_length: Tokens at which a text is cut; by default the tokenizer's or model's limit.
        block_size: Tokens of the blocks that the training texts were joined and cut into.
        end_of_text: Whether the tokenizer's end token comes behind every text.
    """

    label: None = None
    text: str = "text"
    prompt: str | None = None
    completion: str | None = None
    model: str
    adapter: str | None = None
    tokenizer: str | None = None
    max_length: int | None = Field(default=None, ge=2)
    block_size: int | None = Field(default=None, ge=2)
    end_of_text: bool = False

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.prompt is None) != (self.completion is None):
            raise ValueError("prompt and completion go together; text is for texts without")
        if self.block_size and self.prompt:
            raise ValueError("block_size joins texts without a prompt")
        return self


class LanguageData(TokenizedData, LanguageModelTask):
    """A whole task: tokens of texts, and the language model that a folder describes.

    An item is `(inputs,)`, the tokenizer's tokens by name, [T] each, and `labels` where there are
    prompts. A model with an encoder reads the prompt and writes the completion.

    Args:
        arguments: See `_LanguageArguments`.
    """

    def __init__(self, **arguments: Any) -> None:
        self._text = validated(_LanguageArguments, arguments, name="task.arguments")
        self._config = read_config(self._text.model)
        self._tokenizer = load_tokenizer(self._text.tokenizer or self._text.model)
        self.next_token = not self._config.is_encoder_decoder
        if not self.next_token and self._text.prompt is None:
            raise InputError(
                "task.arguments: the model is an encoder with a decoder; expected the columns "
                "prompt, which it reads, and completion, which it writes."
            )
        super().__init__(self._text)

    def build_model(self) -> nn.Module:
        """Return the untrained model, in float32."""
        return model_of(self._config, self._text.model, self._text.adapter)

    def model_digest(self) -> str:
        """Return the digest of the folders' files that make up the model beside checkpoints."""
        return files_digest(self._text.model, self._text.adapter)

    def collate(self, items: Sequence[Any]) -> Any:
        """Return tokens by name, [B, T], padded on the right."""
        return super().collate([item[0] for item in items])

    def queries_of(self, source: Any) -> tuple[Dataset[Any], pl.DataFrame]:
        """See `DataTask`; a completion that was typed is all that is measured, as of prompts."""
        if isinstance(source, Mapping) and "completion" in source and self._text.prompt is None:
            columns = {"prompt": "prompt", "completion": "completion"}
            asked = copy.copy(self)
            asked._text = asked._given = self._text.model_copy(update=columns)
            return asked.queries_of(source)
        return super().queries_of(source)

    def _columns(self) -> Sequence[str]:
        of = self._text
        return [of.text] if of.prompt is None else [of.prompt, str(of.completion)]

    def _shown(self) -> Sequence[str]:
        return [*self._columns(), _PACKED]

    def _usable(self, rows: Rows) -> Rows:
        rows = super()._usable(rows)
        nothing = rows.table[f"{TOKENS}input_ids"].list.len() == 0
        # Texts without a token are of a batch, too: run_clm counts them.
        stage, place = self._text.stage, pl.int_range(pl.len())
        place = place.over(stage) if stage in rows.table.columns else place
        rows = replace(
            rows, table=rows.table.with_columns((place // _PACKED_AT_ONCE).alias(_BATCH))
        )
        return self._without(rows, nothing, "no token")

    def _cut(self, texts: pl.DataFrame) -> Mapping[str, Any]:
        if self._config.is_encoder_decoder:
            return self._cut_both(*(one.to_list() for one in texts.get_columns()))
        end = self._tokenizer.eos_token if self._text.end_of_text else ""
        joined = ["".join(row) + end for row in texts.iter_rows()]
        tokens = self._tokenizer(joined, **self._limits())
        if self._text.prompt is None:
            return dict(tokens)
        prompts = self._tokenizer(texts[self._text.prompt].to_list())["input_ids"]
        cut = wholes = tokens["input_ids"]
        if self._tokenizer.truncation_side == "left":  # what is left may begin with neither
            wholes = self._tokenizer(joined)["input_ids"]
        labels = []
        for prompt, whole, kept in zip(prompts, wholes, cut, strict=True):
            # What both begin with: a tokenizer may end the prompt alone by a token of its own.
            same = takewhile(lambda pair: pair[0] == pair[1], zip(prompt, whole, strict=False))
            start = max(0, len(list(same)) - (len(whole) - len(kept)))
            labels.append([self.ignored_index] * start + kept[start:])
        return {**tokens, "labels": labels}

    def _cut_both(self, prompt: list[str], completion: list[str]) -> Mapping[str, Any]:
        labels = self._tokenizer(text_target=completion, **self._limits())["input_ids"]
        return {**self._tokenizer(prompt, **self._limits()), "labels": labels}

    def _limits(self) -> dict[str, Any]:
        if self._text.block_size:
            return {}
        positions = getattr(self._config, "max_position_embeddings", None)
        return self._limit(self._text.max_length, positions)

    def _as_trained(self, rows: Rows) -> Rows:
        if self._text.block_size is None:
            return rows
        named = rows.table.with_columns(rows.names().alias(_PACKED))
        stage = self._text.stage
        stages = named.partition_by(stage, maintain_order=True) if stage else [named]
        parts = [part for one in stages for part in one.partition_by(_BATCH, maintain_order=True)]
        table = pl.concat([self._blocks(part) for part in parts])
        if not table.height:
            raise InputError(
                f"{rows.called}: the texts together have fewer tokens than a block of "
                f"{self._text.block_size}. Lower task.arguments.block_size, or leave it out."
            )
        return replace(rows, table=table.with_row_index(ROW), id_column=None)

    def _blocks(self, texts: pl.DataFrame) -> pl.DataFrame:
        """Return a row a block of the texts' tokens one after the other; the rest is left out."""
        size = int(self._text.block_size or 0)
        lists = [name for name in texts.columns if name.startswith(TOKENS)]
        kept = [_PACKED, *filter(None, [self._text.stage]), *lists]
        tokens = texts.select(kept).explode(lists)
        tokens = tokens.head(tokens.height // size * size)
        number = (pl.int_range(pl.len()) // size).alias(ROW)
        blocks = tokens.group_by(number, maintain_order=True).agg(
            pl.format("{} to {}", pl.first(_PACKED), pl.last(_PACKED)).alias(_PACKED),
            *(pl.first(name) for name in kept if name not in (_PACKED, *lists)),
            *map(pl.col, lists),
        )
        ids = blocks[f"{TOKENS}input_ids"].to_list()
        text = pl.Series(
            self._text.text, [self._tokenizer.decode(one) for one in ids], dtype=pl.String
        )
        return blocks.drop(ROW).with_columns(text)
