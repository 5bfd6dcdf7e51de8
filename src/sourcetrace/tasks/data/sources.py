"""Where a side's rows are: a file, a folder, an entry of the catalog, or a table handed in.

A source is the path of a file, what a catalog's entry holds (`{catalog: customers}` in YAML), or a
data frame. `{path: …, where: {split: train}}` and `{catalog: …, where: …}` take some rows of it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import polars as pl

from sourcetrace.errors import InputError
from sourcetrace.formats import format_names, format_near, format_noun
from sourcetrace.redaction import error_line
from sourcetrace.tasks.data.hugging_face import is_saved, open_saved, polars_of

ROW: Final = "row in the source"
"""Column of the number that a row has in its source."""


def _scan_lines(path: Path, **options: Any) -> pl.LazyFrame:
    lines = path.read_bytes()
    try:
        return pl.read_ndjson(lines, **options).lazy()
    except pl.exceptions.SchemaFieldNotFoundError:  # there need not be a column of names
        return pl.read_ndjson(lines, infer_schema_length=None).lazy()


_READERS: Final[Mapping[str, Callable[..., pl.LazyFrame]]] = {
    # A path is a path, whatever brackets and stars are in it.
    ".parquet": partial(pl.scan_parquet, glob=False),
    ".csv": partial(pl.scan_csv, glob=False),
    ".tsv": partial(pl.scan_csv, glob=False, separator="\t"),
    ".jsonl": _scan_lines,
    ".ndjson": _scan_lines,
    ".arrow": partial(pl.scan_ipc, glob=False),
    ".feather": partial(pl.scan_ipc, glob=False),
    ".ipc": partial(pl.scan_ipc, glob=False),
}
_SHEETS: Final = frozenset({".csv", ".tsv"})
_TEXT: Final = _SHEETS | {".jsonl", ".ndjson"}


@dataclass(frozen=True)
class Rows:
    """The rows of a side.

    Attributes:
        called: What a message calls the source.
        table: A row an example, its columns and `ROW`.
        class_names: Column -> names of its numbers, where the source has any.
        folder: Where paths in the rows begin.
        id_column: Column of the examples' names, where there is one.
    """

    called: str
    table: pl.DataFrame
    class_names: Mapping[str, Sequence[str]] = field(default_factory=dict)
    folder: Path = Path()
    id_column: str | None = None

    def names(self) -> pl.Series:
        """Return what messages call the rows, [N]."""
        if self.id_column is not None:
            return self.table[self.id_column].cast(pl.String)
        return ("row " + self.table[ROW].cast(pl.String)).rename("name")

    def named(self, chosen: pl.Series) -> str:
        """Return the names of some rows, as a message lists them; `chosen` is [N] bool."""
        return format_names(map(repr, self.names().filter(chosen)))

    def refuse(self, chosen: pl.Series, problem: str, change: str) -> None:
        """Refuse rows by name; `chosen` is [N] bool.

        Raises:
            InputError: If any are chosen.
        """
        if chosen.any():
            raise InputError(
                f"{self.called}: {problem} in {format_noun(int(chosen.sum()), 'row')} of "
                f"{self.table.height} ({self.named(chosen)}). {change}"
            )


@dataclass(frozen=True)
class Source:
    """A source and the condition on its rows.

    Attributes:
        called: What a message calls it.
        data: A path, or what holds the rows.
        where: Column -> the value, or the values, that a row must have.
    """

    called: str
    data: Any
    where: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, given: Any, called: str) -> "Source":
        """Take a source apart.

        Raises:
            InputError: If its keys are others than `path` or `data`, and `where`.
        """
        if not isinstance(given, Mapping) or not {"path", "data", "catalog", "where"} & set(given):
            return cls(called, given)
        if "catalog" in given:
            raise InputError(
                f"{called} names an entry of a catalog, but the task was made without one. Run it "
                "by kedro, or hand over a path or a data frame."
            )
        if len({"path", "data"} & set(given)) != 1 or set(given) - {"path", "data", "where"}:
            raise InputError(
                f"{called} has the keys {', '.join(map(str, given))}; expected a path, "
                "{path: …, where: {column: value}} or {catalog: …, where: {column: value}}."
            )
        where = given.get("where") or {}
        if not isinstance(where, Mapping):
            raise InputError(f"{called}.where: expected {{column: value}}, got {where!r}.")
        return cls(called, given["path"] if "path" in given else given["data"], where)

    @property
    def for_spreadsheets(self) -> bool:
        """Whether it is a file that a spreadsheet program may have written."""
        return isinstance(self.data, str | Path) and Path(self.data).suffix.lower() in _SHEETS

    def rows(
        self, columns: Sequence[str], *, optional: Sequence[str] = (), text: Sequence[str] = ()
    ) -> Rows:
        """Read some columns of the rows, in the order of the source.

        Args:
            columns: That there must be.
            optional: That are read where there are any.
            text: Of these, those whose values are text even if they look like numbers.

        Raises:
            InputError: If the source cannot be read, or lacks a column or the asked-for rows.
        """
        try:
            found = _open(self.data, text, self.called)
            wanted = self._wanted(found.columns, columns, optional)
            table = found.frame(wanted).with_row_index(ROW).filter(*self._conditions()).collect()
        except (OSError, pl.exceptions.PolarsError) as error:
            raise InputError(f"{self.called} cannot be read: {error_line(error)}") from error
        if not table.height:
            condition = f" where {dict(self.where)}" if self.where else ""
            raise InputError(
                f"{self.called} has no row{condition}; expected at least one. Correct the source "
                "or the condition."
            )
        return Rows(self.called, table, found.class_names, found.folder)

    def _wanted(
        self, known: Sequence[str], columns: Sequence[str], optional: Sequence[str]
    ) -> list[str]:
        """Return the columns to read; refuse those that are not there."""
        needed = [*columns, *self.where]
        missing = [name for name in needed if name not in known]
        if missing:
            raise InputError(
                f"{self.called} has no column {format_names(map(repr, missing))} (columns: "
                f"{format_names(known)}). {format_near(missing[0], known)}Correct the column's "
                "name in task.arguments."
            )
        return list(dict.fromkeys([*needed, *(name for name in optional if name in known)]))

    def _conditions(self) -> list[pl.Expr]:
        return [
            pl.col(column).is_in(list(value) if isinstance(value, list | tuple | set) else [value])
            for column, value in self.where.items()
        ]


@dataclass(frozen=True)
class _Opened:
    """What is known of a source before its rows are read; `frame` returns some of its columns."""

    columns: Sequence[str]
    frame: Callable[[Sequence[str]], pl.LazyFrame]
    class_names: Mapping[str, Sequence[str]] = field(default_factory=dict)
    folder: Path = Path()


def _open(data: Any, text: Sequence[str], called: str) -> _Opened:
    if isinstance(data, str | Path):
        return _open_path(Path(data), text, called)
    if isinstance(data, pl.DataFrame | pl.LazyFrame):
        lazy = data.lazy()
        return _Opened(lazy.collect_schema().names(), lazy.select)
    maker = type(data).__module__.split(".")[0]
    if maker == "pandas":
        return _Opened(list(data.columns), lambda names: pl.from_pandas(data[list(names)]).lazy())
    if maker == "datasets":
        read, class_names = polars_of(data, called)
        return _Opened(data.column_names, read, class_names)
    raise InputError(
        f"{called} is a {type(data).__module__}.{type(data).__qualname__}; expected a path, a "
        "polars or pandas data frame, or a map-style data set of Hugging Face's datasets."
    )


def _open_path(path: Path, text: Sequence[str], called: str) -> _Opened:
    if not path.exists():
        raise InputError(
            f"{called}: there is no {path}. Paths start at the folder in which the command runs; "
            "for data elsewhere, such as in S3, name an entry of the catalog: {catalog: …}."
        )
    if is_saved(path):
        dataset = open_saved(path, called)
        read, class_names = polars_of(dataset, called)
        return _Opened(dataset.column_names, read, class_names)
    reader = _READERS.get(path.suffix.lower())
    if reader is None or not path.is_file():
        raise InputError(
            f"{called}: {path} is {'a folder' if path.is_dir() else 'of an unknown format'}; "
            f"expected a file that ends in {', '.join(_READERS)}, or a folder that save_to_disk of "
            "Hugging Face's datasets wrote."
        )
    options: dict[str, Any] = {}
    if path.suffix.lower() in _TEXT:
        # By all rows, not by the first hundred; names such as 007 stay as they are.
        options = {
            "infer_schema_length": None,
            "schema_overrides": dict.fromkeys(text, pl.String),
        }
    frame = reader(path, **options)
    return _Opened(frame.collect_schema().names(), frame.select, folder=path.parent)
