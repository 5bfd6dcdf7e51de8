"""Texts, cut into tokens by a tokenizer of Hugging Face's transformers."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Final

import polars as pl
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.utils.data import default_collate

from sourcetrace.errors import InputError
from sourcetrace.files import read_optional_json
from sourcetrace.progress import track
from sourcetrace.redaction import error_line
from sourcetrace.tasks.data.base import DataArguments, DataTask, refuse_rows
from sourcetrace.tasks.data.identity import content_digest
from sourcetrace.tasks.data.optional_library import optional_library
from sourcetrace.tasks.data.sources import Rows
from sourcetrace.tasks.named_inputs import logits_of, padded
from sourcetrace.validation import validated

_SETTINGS = "tokenizer_config.json"

_AT_ONCE = 1024
"""Texts that are tokenized together."""

_NO_LIMIT: Final = 10**9
"""Tokenizers without a limit name a larger one."""


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


class TextData(DataTask):
    """Tokens by name (`input_ids`, `attention_mask`, …), [T] each, padded in the batch.

    The model is called with those of them that it has arguments for, as the Trainer calls it, and
    its `logits` are the outputs.

    Args:
        arguments: See `_TextArguments`.
    """

    def __init__(self, **arguments: Any) -> None:
        self._text = validated(_TextArguments, arguments, name="task.arguments")
        self._tokenizer = _load_tokenizer(self._text.tokenizer)
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

    def _usable(self, rows: Rows) -> Rows:
        for name in self._columns():
            column = rows.table[name]
            if column.dtype != pl.String:
                raise InputError(
                    f"{rows.called}: {name!r} holds {column.dtype}; expected text. Name the column "
                    "in task.arguments.text."
                )
            refuse_rows(
                rows,
                column.is_null(),
                f"{name!r} is empty",
                "Write the text that training met there, or leave the rows out (where: …).",
            )
        return rows

    def _inputs(self, rows: Rows) -> "_Tokens":
        length = self._text.max_length or self._tokenizer.model_max_length
        options = {"truncation": True, "max_length": length} if length < _NO_LIMIT else {}
        ends, parts = [0], []
        slices = list(rows.table.select(self._columns()).iter_slices(_AT_ONCE))
        for part in track(slices, "Tokenizing"):
            tokens = self._tokenizer(*(one.to_list() for one in part.get_columns()), **options)
            for one in tokens["input_ids"]:
                ends.append(ends[-1] + len(one))
            parts.append({name: list(chain.from_iterable(tokens[name])) for name in tokens})
        return _Tokens(
            ends,
            {
                name: torch.cat([torch.tensor(part[name], dtype=torch.int32) for part in parts])
                for name in parts[0]
            },
        )

    def _contents(self, rows: Rows) -> list[str]:
        texts = rows.table.select(self._columns())
        return [content_digest(*(one.encode() for one in row)) for row in texts.iter_rows()]


@dataclass(frozen=True)
class _Tokens:
    """The tokens of all texts one after the other, by name; text i ends before `ends[i + 1]`."""

    ends: Sequence[int]
    tokens: Mapping[str, Tensor]

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        own = slice(*self.ends[index : index + 2])
        return {name: one[own].long() for name, one in self.tokens.items()}


def _load_tokenizer(folder: str) -> Any:
    """Return the tokenizer of a folder; no code of it is run, and nothing is downloaded."""
    if not Path(folder).is_dir():
        raise InputError(
            f"task.arguments.tokenizer: there is no folder {folder}; expected one that "
            "tokenizer.save_pretrained(folder) wrote. Nothing is downloaded."
        )
    _refuse_files_elsewhere(Path(folder))
    library = optional_library("transformers", "task.arguments.tokenizer")
    try:
        tokenizer = library.AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # of the library, which says what it misses in many ways
        raise InputError(
            f"task.arguments.tokenizer: {folder} cannot be read: {error_line(error)} Expected what "
            "tokenizer.save_pretrained(folder) wrote; code in the folder is not run."
        ) from error
    if tokenizer.pad_token_id is None:
        raise InputError(
            f"task.arguments.tokenizer: {folder} has no padding token. Set the one of the "
            "training, tokenizer.pad_token = …, and save it again."
        )
    return tokenizer


def _refuse_files_elsewhere(folder: Path) -> None:
    """Refuse a tokenizer's settings that name a file out of its folder, which would be read."""
    settings = read_optional_json(folder / _SETTINGS)
    for key, text in _texts_in(settings):
        if key == "name_or_path":  # where it was once saved; nothing is read there
            continue
        # As the library opens it; what is no path of a file is a token, a template, …
        if os.path.isfile(text) and not Path(text).resolve().is_relative_to(folder.resolve()):
            raise InputError(
                f"task.arguments.tokenizer: {key!r} in {folder / _SETTINGS} names {text}, a file "
                f"out of that folder; expected files in it. Remove the entry, or copy the file."
            )


def _texts_in(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Return every text in a JSON value with the key that it stands under."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, Mapping):
        for name, one in value.items():
            yield from _texts_in(one, name)
    elif isinstance(value, list):
        for one in value:
            yield from _texts_in(one, key)
