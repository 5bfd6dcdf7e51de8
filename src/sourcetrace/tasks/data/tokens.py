"""Texts as a tokenizer of Hugging Face's transformers cuts them: what adapters of texts share."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Final

import polars as pl
import torch
from torch import Tensor

from sourcetrace.errors import InputError
from sourcetrace.progress import track
from sourcetrace.tasks.data.base import DataTask
from sourcetrace.tasks.data.identity import content_digest
from sourcetrace.tasks.data.side import ByNumber
from sourcetrace.tasks.data.sources import Rows

TOKENS = "tokens: "
"""Before the names of columns of tokens."""

_AT_ONCE = 1024
"""Texts that are tokenized together."""

_NO_LIMIT: Final = 10**9
"""Tokenizers without a limit name a larger one."""


class TokenizedData(DataTask):
    """Tokens by name (`input_ids`, `attention_mask`, …), [T] each, of columns of texts."""

    _tokenizer: Any

    def tokens_of(self, item: Any) -> list[str]:
        """Return the text of each of an item's tokens."""
        return [self._tokenizer.decode([token]) for token in item[0]["input_ids"].tolist()]

    @abstractmethod
    def _cut(self, texts: pl.DataFrame) -> Mapping[str, Any]:
        """Return lists of tokens by name, of some rows' texts."""

    def _limit(self, length: int | None, *others: int | None) -> dict[str, Any]:
        """Return how the tokenizer is told to cut: at a length, else at the least of the limits."""
        limits = (self._tokenizer.model_max_length, *others)
        known = [one for one in limits if one is not None and one < _NO_LIMIT]
        limit = length or min(known, default=None)
        return {} if limit is None else {"truncation": True, "max_length": limit}

    def _usable(self, rows: Rows) -> Rows:
        """Refuse rows without texts, and add their tokens, a column of lists a name."""
        texts = rows.table.select(self._columns())
        for column in texts.get_columns():
            _refuse_no_text(rows, column)
        kind = pl.List(pl.Int32)
        parts = [
            {TOKENS + name: pl.Series(one, dtype=kind) for name, one in self._cut(part).items()}
            for part in track(list(texts.iter_slices(_AT_ONCE)), "Tokenizing")
        ]
        tokens = pl.concat([pl.DataFrame(part) for part in parts])
        return replace(rows, table=rows.table.hstack(tokens))

    def _inputs(self, rows: Rows) -> ByNumber:
        lists = (one for one in rows.table.get_columns() if one.name.startswith(TOKENS))
        by_name = {one.name.removeprefix(TOKENS): one for one in lists}
        return ByNumber(rows.table.height, partial(_tokens, by_name))

    def _contents(self, rows: Rows) -> list[str]:
        texts = rows.table.select(self._columns())
        return [content_digest(*(one.encode() for one in row)) for row in texts.iter_rows()]


def _tokens(lists: Mapping[str, pl.Series], index: int) -> dict[str, Tensor]:
    return {
        name: torch.tensor(one[index].to_numpy(), dtype=torch.int64) for name, one in lists.items()
    }


def _refuse_no_text(rows: Rows, column: pl.Series) -> None:
    """Refuse a column that holds anything else than text, or nothing in a row."""
    if column.dtype != pl.String:
        raise InputError(
            f"{rows.called}: {column.name!r} holds {column.dtype}; expected text. Name the column "
            "in task.arguments.text."
        )
    rows.refuse(
        column.is_null(),
        f"{column.name!r} is empty",
        "Write the text that training met there, or leave the rows out (where: …).",
    )
