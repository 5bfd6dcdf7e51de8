"""Files replaced as a whole: a reader sees the old one or the new one, never a part."""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from sourcetrace.errors import InputError

_COARSE = 2_000_000_000
"""Nanoseconds within which a file's clock may not tell two changes of it apart."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path to write to, which takes the place of `path` once everything is written.

    The folder is made where it is missing. What an error left unfinished is removed; what a kill
    left is `.partial`, and is overwritten by the next try.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # The process is named: two that write the same file do not write into each other's.
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def link_file(source: Path, target: Path) -> None:
    """Put a file, which nobody writes to any more, under a second name; copied where needs be."""
    with replacing(target) as partial:
        partial.unlink(missing_ok=True)  # a killed process of the same number left it
        try:
            os.link(source, partial)
        except OSError:  # other disks, and some file systems
            shutil.copyfile(source, partial)


def sync_tree(folder: Path) -> None:
    """Wait until the disk has a folder's files and their names."""
    for path in (*folder.iterdir(), folder):
        opened = os.open(path, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def digest_of(content: Any) -> str:
    """Return 16 hexadecimal digits, 64 bits, of the digest of a JSON value."""
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write_json(path: Path, content: Any, **options: Any) -> None:
    """Replace a file by a JSON value, written with `json.dumps` and its options."""
    with replacing(path) as partial:
        partial.write_text(json.dumps(content, **options), encoding="utf-8")


def read_optional_json(path: Path | None) -> Any:
    """Return the content of a JSON file; None where there is none, or no path is given.

    Raises:
        InputError: If it cannot be read.
    """
    if path is None or not path.exists():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as JSON: {error}") from error


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, computed again in this process only where it changed."""
    found = path.stat()
    times = found.st_mtime_ns, found.st_ctime_ns
    if time.time_ns() - max(times) < _COARSE:
        return _digest(path)
    return _known_digest(path, found.st_ino, found.st_size, *times)


@lru_cache(maxsize=2**16)
def _known_digest(path: Path, *_state: int) -> str:
    return _digest(path)


def _digest(path: Path) -> str:
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
