"""Tokens of texts, cut by a tokenizer of Hugging Face's transformers."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import polars as pl
import torch
from torch import Tensor

from sourcetrace.errors import InputError
from sourcetrace.files import read_optional_json
from sourcetrace.progress import track
from sourcetrace.redaction import error_line
from sourcetrace.tasks.data.base import refuse_rows
from sourcetrace.tasks.data.identity import content_digest
from sourcetrace.tasks.data.optional_library import optional_library
from sourcetrace.tasks.data.sources import Rows

_SETTINGS = "tokenizer_config.json"

_AT_ONCE = 1024
"""Texts that are tokenized together."""

_NO_LIMIT: Final = 10**9
"""Tokenizers without a limit name a larger one."""


@dataclass(frozen=True)
class Tokens:
    """The tokens of N texts.

    Attributes:
        lists: A row a text, a column of lists of whole numbers a name.
    """

    lists: pl.DataFrame

    def __len__(self) -> int:
        return self.lists.height

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {
            one.name: torch.tensor(one[index].to_numpy(), dtype=torch.int64)
            for one in self.lists.get_columns()
        }


def tokenized(
    texts: pl.DataFrame, cut: Callable[[pl.DataFrame], Mapping[str, Sequence[Sequence[int]]]]
) -> pl.DataFrame:
    """Return a column of lists of tokens a name, for some texts after the other.

    Args:
        texts: A row a text.
        cut: Some rows -> their tokens by name.
    """
    slices = track(list(texts.iter_slices(_AT_ONCE)), "Tokenizing")
    kind = pl.List(pl.Int32)
    parts = [{name: pl.Series(one, dtype=kind) for name, one in cut(s).items()} for s in slices]
    return pl.concat([pl.DataFrame(part) for part in parts])


def token_texts(tokenizer: Any, item: Any) -> list[str]:
    """Return the text of each token of an item, whose inputs come first."""
    return [tokenizer.decode([token]) for token in item[0]["input_ids"].tolist()]


def text_digests(texts: pl.DataFrame) -> list[str]:
    """Return a digest of every row's texts."""
    return [content_digest(*(one.encode() for one in row)) for row in texts.iter_rows()]


def cut_at(length: int | None, *others: int | None) -> dict[str, Any]:
    """Return how a tokenizer is told to cut: at a length, else at the least of other limits."""
    known = [one for one in others if one is not None and one < _NO_LIMIT]
    limit = length or min(known, default=None)
    return {} if limit is None else {"truncation": True, "max_length": limit}


def refuse_no_text(rows: Rows, columns: Sequence[str]) -> None:
    """Refuse columns that hold anything else than text, or nothing in a row.

    Raises:
        InputError: If there are any.
    """
    for name in columns:
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


def load_tokenizer(folder: str) -> Any:
    """Return the tokenizer of a folder; no code of it is run, and nothing is downloaded.

    Raises:
        InputError: If there is none, or its settings name files elsewhere.
    """
    if not Path(folder).is_dir():
        raise InputError(
            f"task.arguments.tokenizer: there is no folder {folder}; expected one that "
            "tokenizer.save_pretrained(folder) wrote. Nothing is downloaded."
        )
    _refuse_files_elsewhere(Path(folder))
    library = optional_library("transformers", "task.arguments.tokenizer")
    try:
        return library.AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # of the library, which says what it misses in many ways
        raise InputError(
            f"task.arguments.tokenizer: {folder} cannot be read: {error_line(error)} Expected what "
            "tokenizer.save_pretrained(folder) wrote; code in the folder is not run."
        ) from error


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
