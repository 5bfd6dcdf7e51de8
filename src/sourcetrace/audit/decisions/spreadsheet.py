"""A file of decisions as a page, an editor or a spreadsheet program left it."""

import csv
import io

import polars as pl

from sourcetrace.errors import InputError
from sourcetrace.quoting import unquoted

_NEEDED = ("example_id", "content_digest", "decision")
COLUMNS = (*_NEEDED, "new_label", "note", "scores_digest")
_SEPARATORS = (",", ";", "\t")


def read_decisions_file(content: bytes, *, called: str) -> pl.DataFrame:
    """Return `COLUMNS` as text, empty where there is nothing, and the `line` of every row.

    A byte order mark, other line ends or separators, further columns and the quotes before what a
    spreadsheet would run do no harm.

    Args:
        content: Of the file.
        called: What a message calls it.

    Raises:
        InputError: If it is no such table.
    """
    try:
        text = content.decode("utf-8-sig")
        first = text.split("\n", 1)[0]
        separator = max(_SEPARATORS, key=first.count)
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator)
        names = [name.strip().lower() for name in reader.fieldnames or ()]
        reader.fieldnames = names
        rows = [
            [*(row.get(name) or "" for name in COLUMNS), str(reader.line_num)] for row in reader
        ]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"{called} is no CSV file in UTF-8: {error}. Save it as “CSV UTF-8”."
        ) from error
    if missing := [name for name in _NEEDED if name not in names]:
        raise InputError(
            f"{called} has no column {', '.join(missing)}; expected {', '.join(COLUMNS)}. Export "
            "it from the page, or fill in the column “decision” of review_list.csv."
        )
    table = pl.DataFrame(rows, schema=[*COLUMNS, "line"], orient="row", schema_overrides=_TEXT)
    tidy = pl.col("content_digest", "scores_digest").str.strip_chars()
    decision = pl.col("decision").str.strip_chars().str.to_lowercase()
    return table.with_columns(tidy, decision, unquoted(pl.col("example_id", "new_label", "note")))


_TEXT = dict.fromkeys((*COLUMNS, "line"), pl.String)
