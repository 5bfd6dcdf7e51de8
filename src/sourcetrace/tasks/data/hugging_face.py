"""Data sets of Hugging Face's `datasets`: as `save_to_disk` wrote them, or handed in."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from sourcetrace.errors import InputError
from sourcetrace.files import read_optional_json
from sourcetrace.redaction import error_line
from sourcetrace.tasks.data.optional_library import optional_library

_STATE = "state.json"
_INFO = "dataset_info.json"
_SPLITS = "dataset_dict.json"


def is_saved(path: Path) -> bool:
    """Return whether `save_to_disk` wrote a folder."""
    return (path / _STATE).is_file() or (path / _SPLITS).is_file()


def open_saved(folder: Path, called: str) -> Any:
    """Return the data set in a folder; its files stay where they are, memory-mapped.

    Raises:
        InputError: If it holds several splits, names files elsewhere or cannot be read.
    """
    if (folder / _SPLITS).is_file():
        names = sorted(one.name for one in folder.iterdir() if (one / _STATE).is_file())
        raise InputError(
            f"{called}: {folder} holds the splits {', '.join(names)}. Name one of them: "
            f"{folder / (names or ['train'])[0]}"
        )
    state = read_optional_json(folder / _STATE)
    files = state.get("_data_files") if isinstance(state, Mapping) else None
    named = [one.get("filename") if isinstance(one, Mapping) else one for one in files or [None]]
    if not all(isinstance(name, str) and _beside(folder, name) for name in [*named, _STATE, _INFO]):
        raise InputError(
            f"{called}: {folder / _STATE} names files that do not lie beside it, or are links to "
            "elsewhere. Save the data set again with save_to_disk."
        )
    library = optional_library("datasets", f"{called}: {folder}")
    try:
        return library.load_from_disk(str(folder))
    except Exception as error:  # of the library, of Arrow or of the file system
        raise InputError(
            f"{called}: {folder} cannot be read: {error_line(error)}. Save the data set "
            "again with save_to_disk."
        ) from error


def _beside(folder: Path, name: str) -> bool:
    """Return whether a name is a file's in the folder, and not a link's to elsewhere."""
    return name == Path(name).name and (folder / name).resolve().is_relative_to(folder.resolve())


def polars_of(
    dataset: Any, called: str
) -> tuple[Callable[[Sequence[str]], pl.LazyFrame], Mapping[str, Sequence[str]]]:
    """Return a reader of some columns, and the class names of the columns that have any.

    Raises:
        InputError: If the data set holds several splits or can only be iterated over.
    """
    kind = type(dataset).__name__
    if kind != "Dataset":
        change = (
            "Hand over one of its splits."
            if kind == "DatasetDict"
            else "An audit reads examples by their number, several times: save the rows that "
            "training met with Dataset.from_list(list(…)).save_to_disk(folder), and name the "
            "folder."
        )
        raise InputError(f"{called} is a {kind} of datasets; expected a Dataset. {change}")
    features = dataset.features or {}
    names = {c: tuple(f.names) for c, f in features.items() if type(f).__name__ == "ClassLabel"}
    return lambda columns: dataset.select_columns(list(columns)).to_polars().lazy(), names
