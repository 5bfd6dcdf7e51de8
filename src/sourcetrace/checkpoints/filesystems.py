"""Checkpoints on a file system that fsspec knows, such as s3://, gs://, memory:// or https://."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs
from fsspec.registry import known_implementations

from sourcetrace.checkpoints.fetched import RemoteFile, is_read
from sourcetrace.checkpoints.places import last_part, scheme_of
from sourcetrace.errors import InputError
from sourcetrace.redaction import error_line, hide_credentials

_STAMPS = frozenset(
    {"etag", "md5hash", "content-md5", "content_md5", "digest", "checksum", "generation"}
    | {"versionid", "version_id", "mtime", "lastmodified", "last-modified", "last_modified"}
    | {"updated", "created"}
)
"""What file systems call it when a file's bytes are others, in small letters."""

_EXTRAS = {"s3": "s3", "s3a": "s3"}
"""Scheme -> extra of this package that brings its library."""


class FileSystemSource:
    """See `sourcetrace.checkpoints.fetched.Source`.

    Args:
        address: With a scheme.
        options: Of the file system, by fsspec's names; they may be secrets.
        any_name: Whether every file is listed, whatever its name.
    """

    def __init__(self, address: str, options: Mapping[str, Any], *, any_name: bool = False) -> None:
        self.address = address
        self._any_name = any_name
        self._file_system, root = _opened(address, options)
        self._root = root.rstrip("/")
        with self._readable():
            name = last_part(root)
            # Of a server of web pages, every page is a file.
            self.is_file = (any_name or is_read(name)) and bool(self._file_system.isfile(root))

    def files(self) -> Sequence[RemoteFile]:
        """Return what lies there."""
        return [
            RemoteFile(name, _size(info, self.address), _stamp(info))
            for name, info in self._infos.items()
        ]

    def download(self, name: str, target: Path) -> None:
        """Write one of the files."""
        with self._readable():
            self._file_system.get_file(self._infos[name]["name"], str(target))

    @cached_property
    def _infos(self) -> dict[str, Mapping[str, Any]]:
        with self._readable():
            if self.is_file:
                return {last_part(self._root): self._file_system.info(self._root)}
            before = f"{self._root}/"
            found = self._file_system.find(before, detail=True)
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

    def _described(self, info: Mapping[str, Any]) -> Mapping[str, Any]:
        described: Mapping[str, Any] = self._file_system.info(info["name"])
        return described

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except InputError:
            raise
        except FileNotFoundError as error:
            raise InputError(
                f"checkpoints: there is nothing at {hide_credentials(self.address)}, or it cannot "
                "be listed. Correct the address."
            ) from error
        # Each library has errors of its own.
        except Exception as error:
            raise InputError(_refusal(self.address, error_line(error))) from error


def _opened(address: str, options: Mapping[str, Any]) -> tuple[AbstractFileSystem, str]:
    scheme = scheme_of(address)
    try:
        # What an earlier instance of this process listed may be out of date.
        file_system, root = url_to_fs(address, skip_instance_cache=True, **options)
    except ImportError as error:
        known = known_implementations.get(scheme, {}).get("err", f"Install it: {error}.")
        what = f"pip install 'sourcetrace[{_EXTRAS[scheme]}]'" if scheme in _EXTRAS else ""
        raise InputError(
            f"checkpoints: {scheme}:// needs a library that is not installed. "
            + (f"Install it: {what}." if what else f"{known}.".replace("..", "."))
        ) from error
    except ValueError as error:
        if scheme not in known_implementations:
            raise InputError(
                f"checkpoints: {hide_credentials(address)} begins with {scheme}:, which is no file "
                "system that fsspec knows. A local path, s3://…, gs://…, https://…, runs:/… or "
                "models:/… is expected."
            ) from error
        raise InputError(_refusal(address, error_line(error))) from error
    except Exception as error:
        raise InputError(_refusal(address, error_line(error))) from error
    return file_system, root


def _refusal(address: str, reason: str) -> str:
    return (
        f"checkpoints: {hide_credentials(address)} cannot be read: {reason}. Check the address and "
        "the credentials: those of the environment (for S3 AWS_ACCESS_KEY_ID, "
        "AWS_SECRET_ACCESS_KEY, AWS_PROFILE, and AWS_ENDPOINT_URL_S3 of a server of your own), or "
        "checkpoints.storage_options."
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
