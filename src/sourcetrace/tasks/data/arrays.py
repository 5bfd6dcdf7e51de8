"""NumPy arrays: `.npz`, a folder of `.npy`, or a `.npy` file each; `.npy` stay on disk."""

import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
import torch
from torch import Tensor

from sourcetrace.core.machine.memory import free_memory
from sourcetrace.errors import InputError
from sourcetrace.formats import format_bytes, format_names
from sourcetrace.lazy import LazyMapping
from sourcetrace.progress import track
from sourcetrace.tasks.data.base import DataArguments, DataTask
from sourcetrace.tasks.data.identity import content_digest
from sourcetrace.tasks.data.side import ByNumber
from sourcetrace.tasks.data.sources import ROW, Rows, Source
from sourcetrace.validation import validated

_Array = np.ndarray[Any, np.dtype[Any]]

_MEMORY = torch.device("cpu")
_CONTENT = "digest of the inputs"


class _ArrayArguments(DataArguments):
    """Arguments of `ArrayData`, beside those of every adapter; columns are arrays of N values.

    Attributes:
        inputs: The array of inputs, [N, …].
        dtype: Of the inputs; by default float32 for floats and int64 for integers.
    """

    inputs: str = "inputs"
    dtype: Literal["float32", "float64", "int64"] | None = None


class ArrayData(DataTask):
    """Rows of an array, [N, …], and labels, names and stages from arrays beside it.

    Args:
        arguments: See `_ArrayArguments`.
    """

    def __init__(self, **arguments: Any) -> None:
        self._array = validated(_ArrayArguments, arguments, name="task.arguments")
        self._arrays: dict[str, _Array] = {}
        super().__init__(self._array)

    def _columns(self) -> Sequence[str]:
        return [self._array.inputs]

    def _shown(self) -> Sequence[str]:
        return []

    def _read(
        self, given: Any, called: str, columns: Sequence[str], optional: Sequence[str]
    ) -> Rows:
        """Read the arrays; in the place of the inputs, the table has the number of the row."""
        source = Source.of(given, called)
        arrays = _open(source.data, called)
        inputs = arrays.get(self._array.inputs)
        if inputs is None or not inputs.ndim or inputs.dtype.kind not in "biuf":
            kind = "no array" if inputs is None else f"{inputs.dtype} {list(inputs.shape)} in"
            raise InputError(
                f"{called} has {kind} {self._array.inputs!r} (arrays: {format_names(arrays)}); "
                "expected numbers, [N, …]. Name the array in task.arguments.inputs."
            )
        wanted = [name for name in [*columns, *optional, *source.where] if name in arrays]
        for name in wanted:
            if arrays[name].shape[:1] != inputs.shape[:1]:
                raise InputError(
                    f"{called}: {name!r} has the shape {list(arrays[name].shape)} and "
                    f"{self._array.inputs!r} {list(inputs.shape)}; expected as many rows."
                )
        table = pl.DataFrame(
            {name: pl.Series(arrays[name]) for name in wanted if name != self._array.inputs}
            | {self._array.inputs: range(len(inputs))}
        )
        self._arrays[called] = inputs
        return replace(source, data=table).rows(columns, optional=optional)

    def _usable(self, rows: Rows) -> Rows:
        array, inputs = self._arrays[rows.called], self._inputs(rows)
        finite, contents = [], []
        for index, row in enumerate(track(rows.table[ROW].to_list(), "Reading arrays")):
            values, own = inputs[index].numpy(), array[row]
            wraps = own.dtype == np.uint64 and values.dtype == np.int64 and (values < 0).any()
            finite.append(bool(np.isfinite(values).all()) and not wraps)
            contents.append(content_digest(str(values.shape).encode(), values.tobytes()))
        rows.refuse(
            ~pl.Series(finite),
            f"{self._array.inputs!r} has whole numbers beyond int64, NaN or infinite values",
            "Write the values that training put there, or leave the rows out (where: …).",
        )
        return replace(rows, table=rows.table.with_columns(pl.Series(_CONTENT, contents)))

    def _inputs(self, rows: Rows) -> Any:
        array, numbers = self._arrays[rows.called], rows.table[ROW].to_list()
        kind = self._array.dtype or ("float32" if array.dtype.kind == "f" else "int64")
        return ByNumber(len(numbers), partial(_tensor, array, numbers, kind))

    def _contents(self, rows: Rows) -> list[str]:
        return rows.table[_CONTENT].to_list()


def _tensor(array: _Array, rows: Sequence[int], dtype: str, index: int) -> Tensor:
    # A copy: what is mapped from a file cannot be written to.
    return torch.from_numpy(np.array(array[rows[index]], dtype=dtype))


def _open(data: Any, called: str) -> Mapping[str, _Array]:
    """Return the arrays of a source by their names."""
    if isinstance(data, Mapping):
        return {
            str(name): one if isinstance(one, np.ndarray) else _load_array(Path(str(one)), called)
            for name, one in data.items()
        }
    path = Path(str(data))
    if path.is_dir():
        files = sorted(path.glob("*.npy"))
        if files:
            return {file.stem: _load_array(file, called) for file in files}
    elif path.suffix.lower() == ".npz":
        loaded = _load(path, called)
        if isinstance(loaded, np.lib.npyio.NpzFile):
            return _packed(path, called, loaded)
    raise InputError(
        f"{called}: {path} is no source of arrays; expected a .npz file, a folder of .npy files, "
        "or {name of the array: path of its .npy file}."
    )


def _load_array(path: Path, called: str) -> _Array:
    found = _load(path, called)
    if not isinstance(found, np.ndarray):
        raise InputError(f"{called}: {path} holds several arrays; expected a .npy file of one.")
    return found


def _packed(path: Path, called: str, file: Any) -> Mapping[str, _Array]:
    """Return the arrays of a `.npz` file; each is read, whole, when it is first asked for."""
    members = set(file.zip.namelist())

    @cache
    def read(name: str) -> _Array:
        member = name if name in members else f"{name}.npy"
        size, free = file.zip.getinfo(member).file_size, free_memory(_MEMORY)
        if size > free:
            raise InputError(
                f"{called}: {name!r} in {path} unpacks to {format_bytes(size)}, and "
                f"{format_bytes(free)} of memory are free. Save it as .npy, which stays on disk."
            )
        with _readable(path, called):
            found: _Array = file[name]
            return found

    return LazyMapping(file.files, read)


def _load(path: Path, called: str) -> Any:
    with _readable(path, called):
        return np.load(path, mmap_mode="r", allow_pickle=False)


@contextmanager
def _readable(path: Path, called: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(
            f"{called}: {path} cannot be read: {error}. Expected arrays of numbers or text that "
            "numpy.save or numpy.savez wrote; arrays of objects are pickles and are not loaded."
        ) from error
