"""Checkpoints on a file system that fsspec knows, such as s3://, gs://, memory:// or https://."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from fsspec import available_protocols
from fsspec.callbacks import Callback
from fsspec.core import url_to_fs
from fsspec.registry import known_implementations

from sourcetrace.checkpoints.places.addresses import last_part, scheme_of
from sourcetrace.checkpoints.places.fetched import RemoteFile, is_read
from sourcetrace.errors import InputError
from sourcetrace.redaction import error_line, hide_credentials

_STAMPS = frozenset(
    {"etag", "md5hash", "content-md5", "content_md5", "digest", "checksum", "generation"}
    | {"versionid", "version_id", "mtime", "lastmodified", "last-modified", "last_modified"}
    | {"updated", "created"}
)
"""What file systems call it when a file's bytes are others, in small letters."""

_WEB = ("http", "https")
_DEEPEST = 8
"""Folders of a web server in one another."""

_EXTRAS = {"s3": "s3", "s3a": "s3"}
"""Scheme -> extra of this package that brings its library."""


class FileSystemSource:
    """See `sourcetrace.checkpoints.places.fetched.Source`.

    Args:
        address: With a scheme.
        options: Of the file system, by fsspec's names; they may be secrets.
        any_name: Whether every file is listed, whatever its name.
    """

    def __init__(self, address: str, options: Mapping[str, Any], *, any_name: bool = False) -> None:
        self.address = address
        self._any_name = any_name
        self._options = options
        with self._readable():
            # What an earlier instance of this process listed may be out of date.
            system, root = url_to_fs(address, skip_instance_cache=True, **options)
            self._file_system, self._root = system, root.rstrip("/")
            name = last_part(root)
            # Of a server of web pages, every page is a file.
            self.is_file = (any_name or is_read(name)) and bool(system.isfile(root))

    def files(self) -> Sequence[RemoteFile]:
        """Return what lies there."""
        return [
            RemoteFile(name, _size(info, self.address), _stamp(info))
            for name, info in self._infos.items()
        ]

    def download(self, name: str, target: Path) -> None:
        """Write one of the files."""
        with self._readable():
            info = self._infos[name]
            limit = _Limit(name, _size(info, self.address))
            self._file_system.get_file(info["name"], str(target), callback=limit)

    @cached_property
    def _infos(self) -> dict[str, Mapping[str, Any]]:
        with self._readable():
            if self.is_file:
                return {last_part(self._root): self._file_system.info(self._root)}
            before = f"{self._root}/"
            if scheme_of(self.address) in _WEB:
                found = self._pages(before, _DEEPEST)
            else:
                found = self._file_system.find(before, detail=True)
            if not found:
                # To find nothing may be to have asked nobody; to list it fails.
                self._file_system.ls(before)
            names = {
                path.removeprefix(before): info
                for path, info in found.items()
                if path.startswith(before) and not path.endswith("/")
            }
            return {
                name: info if info.get("size") is not None else self._described(info)
                for name, info in names.items()
                if self._any_name or is_read(name)
            }

    def _pages(self, folder: str, deepest: int) -> dict[str, Mapping[str, Any]]:
        """Return what a web server's folder links to in itself; fsspec asks without the slash."""
        found: dict[str, Mapping[str, Any]] = {}
        for info in self._file_system.ls(folder, detail=True):
            name = info["name"]
            if not name.startswith(folder) or name == folder:
                continue
            if not name.endswith("/"):
                found[name] = info
            elif deepest:
                found |= self._pages(name, deepest - 1)
        return found

    def _described(self, info: Mapping[str, Any]) -> Mapping[str, Any]:
        described: Mapping[str, Any] = self._file_system.info(info["name"])
        return described

    def _readable(self) -> AbstractContextManager[None]:
        return _readable(self.address, self._options)


class _Limit(Callback):  # type: ignore[misc]  # untyped
    """Told of each part of a file that came: ends the transfer behind the size that was said."""

    def __init__(self, name: str, size: int) -> None:
        super().__init__()
        self._name, self._most = name, size

    def relative_update(self, inc: int = 1) -> None:
        super().relative_update(inc)
        if self.value > self._most:
            raise InputError(
                f"checkpoints: {self._name} is longer than the {self._most:,} bytes that were said "
                "of it; the transfer was ended. Run the audit again, or copy the folder to this "
                "machine and set checkpoints.path to the copy."
            )


@contextmanager
def _readable(address: str, options: Mapping[str, Any]) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    # Each library has errors of its own.
    except Exception as error:
        raise InputError(f"checkpoints: {_told(address, options, error)}") from error


def _told(address: str, options: Mapping[str, Any], error: Exception) -> str:
    """Return what went wrong, and what to change."""
    scheme, shown = scheme_of(address), hide_credentials(address)
    if isinstance(error, FileNotFoundError):
        return f"there is nothing at {shown}, or it cannot be listed. Correct the address."
    if isinstance(error, ImportError):
        extra = f"Install it: pip install 'sourcetrace[{_EXTRAS.get(scheme)}]'."
        named = known_implementations.get(scheme, {}).get("err", str(error))
        what = extra if scheme in _EXTRAS else f"{named.rstrip('.')}."
        return f"{scheme}:// needs a library that is not installed. {what}"
    if scheme not in available_protocols():
        return (
            f"{shown} begins with {scheme}:, which is no file system that fsspec knows. Expected "
            "is a local path, s3://…, gs://…, https://…, runs:/… or models:/…."
        )
    reason = error_line(error, secrets=options)
    if scheme in _WEB and isinstance(error, OSError):
        return (
            f"the server of {shown} did not answer: {reason}. Start it, or correct the address; "
            "or copy the folder to this machine and set checkpoints.path to the copy."
        )
    return (
        f"{shown} cannot be read: {reason}. Check the address and the credentials: those of the "
        "environment (for S3 AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_PROFILE, and "
        "AWS_ENDPOINT_URL_S3 of a server of your own), or checkpoints.storage_options."
    )


def _size(info: Mapping[str, Any], address: str) -> int:
    if info.get("size") is None:
        raise InputError(
            f"checkpoints: {hide_credentials(address)} does not say how large "
            f"{last_part(info['name'])} is. Copy the folder to this machine and set "
            "checkpoints.path to the copy."
        )
    return int(info["size"])


def _stamp(info: Mapping[str, Any]) -> str:
    said = {name: str(value) for name, value in info.items() if name.lower() in _STAMPS and value}
    return json.dumps(said, sort_keys=True) if said else ""
