"""Files of checkpoints that lie elsewhere, copied into a folder of the cache.

    <cache>/<name>-<digest of the address>/         the files, under their names
    <cache>/<name>-<digest of the address>.json     size and stamp of each, as it was fetched
    <cache>/<name>-<digest of the address>.lock     held while they are fetched

A file is fetched again where its size or its stamp is another, or its place has no stamps. What is
gone there goes here. The audit's identity is of the bytes: the cache has no part in it.
"""

import json
import logging
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from sourcetrace.checkpoints.formats.distributed_files import METADATA
from sourcetrace.checkpoints.formats.torch_file import SUFFIXES
from sourcetrace.checkpoints.places.addresses import kept_at
from sourcetrace.errors import InputError
from sourcetrace.files import replacing, write_json
from sourcetrace.formats import format_bytes, format_names, format_noun
from sourcetrace.locks import HeldLock
from sourcetrace.progress import track
from sourcetrace.redaction import hide_credentials

logger = logging.getLogger(__name__)

WEIGHT_SUFFIXES = (*SUFFIXES, ".safetensors", ".distcp")
_READ = (*WEIGHT_SUFFIXES, ".json")
# Of a Trainer's folder; of a distributed checkpoint `.metadata` says where its tensors are.
_UNREAD = re.compile(r"(^|/)(training_args\.bin|rng_state[^/]*\.pth|tokenizer[^/]*\.json)$")


@dataclass(frozen=True)
class RemoteFile:
    """A file where the checkpoints lie.

    Attributes:
        name: Below the place, with slashes.
        size: In bytes.
        stamp: Another one where the bytes are others; empty where nothing is said of them.
    """

    name: str
    size: int
    stamp: str


class _Source(Protocol):
    """A place that files can be fetched from. Each method raises InputError where it cannot.

    Attributes:
        address: As the user wrote it.
        is_file: Whether the place is a single file.
    """

    address: str
    is_file: bool

    def files(self) -> Sequence[RemoteFile]:
        """Return what lies there."""
        ...

    def download(self, name: str, target: Path) -> None:
        """Write one of the files."""
        ...


def is_read(name: str) -> bool:
    """Return whether a reader of checkpoints may want a file, by its name."""
    wanted = name.endswith(_READ) or PurePosixPath(name).name == METADATA
    return wanted and not _UNREAD.search(name)


def fetch(source: _Source, cache: str | None) -> Path:
    """Fetch what is not here yet, and return the folder, or the file, on this machine.

    Args:
        source: The place.
        cache: See `kept_at`.

    Raises:
        InputError: If there is nothing, it does not fit the disk, a name leads out of the folder,
            or the place fails.
    """
    folder, address = kept_at(source.address, cache), hide_credentials(source.address)
    files = {_inside(one.name, address): one for one in source.files()}
    if not files:
        raise InputError(
            f"checkpoints: nothing that is read lies at {address} ({', '.join(_READ)}). Correct "
            "the address: it names the folder your training saved its checkpoints to."
        )
    lock = HeldLock()
    try:
        lock.acquire(folder.with_name(f"{folder.name}.lock"), wait=True)
        _bring(source, address, files, folder)
    except OSError as error:
        raise InputError(
            f"checkpoints.cache: what lies at {address} cannot be kept in {folder}: {error}"
        ) from error
    finally:
        lock.release()
    return folder / next(iter(files)) if source.is_file else folder


def _bring(source: _Source, address: str, files: Mapping[str, RemoteFile], folder: Path) -> None:
    record = folder.with_name(f"{folder.name}.json")
    kept = _read_record(record)
    _remove_others(folder, files)
    missing = [
        one
        for name, one in files.items()
        if not one.stamp
        or kept.get(name) != [one.size, one.stamp]
        or not _has_size(folder / name, one.size)
    ]
    if not missing:
        return
    _check_room(address, missing, folder)
    for one in track(missing, "Checkpoints fetched"):
        # Before the file: what a kill leaves is not taken for the new one.
        if kept.pop(one.name, None):
            write_json(record, kept, indent=1)
        with replacing(folder / one.name) as partial:
            source.download(one.name, partial)
            if not _has_size(partial, one.size):
                raise InputError(
                    f"{one.name} at {address} was cut short, or changed while it was fetched: "
                    f"expected {one.size} bytes. Run the audit again."
                )
        kept[one.name] = [one.size, one.stamp]
        write_json(record, kept, indent=1)


def _check_room(address: str, missing: Sequence[RemoteFile], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    needed, free = sum(one.size for one in missing), shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(
            f"checkpoints.cache: {format_bytes(needed)} of checkpoints at {address} are to be "
            f"fetched, and the disk of {folder} has {format_bytes(free)} free. Make room, or set "
            "checkpoints.cache to a folder on another disk."
        )
    logger.info(
        "Fetching %s, %s, from %s to %s",
        format_noun(len(missing), "file"),
        format_bytes(needed),
        address,
        folder,
    )


def _inside(name: str, address: str) -> str:
    """Return a file's name if it stays in the folder."""
    parts = name.split("/")
    if any(part in ("", ".", "..") for part in parts) or re.search(r"[\\\0]|^[A-Za-z]:", name):
        raise InputError(
            f"checkpoints: {address} has a file named {format_names([ascii(name)])}, which would "
            "lie outside the folder it is fetched to. Rename it there."
        )
    return name


def _remove_others(folder: Path, files: Mapping[str, RemoteFile]) -> None:
    # The deepest first: a folder is empty once what it had is gone.
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir() and not path.is_symlink():
            if not any(path.iterdir()):
                path.rmdir()
        elif path.relative_to(folder).as_posix() not in files:
            path.unlink()


def _has_size(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _read_record(file: Path) -> dict[str, list[object]]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        # Nothing is known of what lies here: it is fetched anew.
        return {}
    return found if isinstance(found, dict) else {}
