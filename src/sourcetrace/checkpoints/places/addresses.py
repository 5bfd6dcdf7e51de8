"""What an address of checkpoints means on this machine.

data/checkpoints, ~/runs/7, file:///srv/runs/7      where they lie already
s3://bucket/run, runs:/<id>/checkpoints, …          a folder of the cache, which the address names
"""

import hashlib
import re
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from sourcetrace.errors import InputError
from sourcetrace.redaction import bare_address, hide_credentials

CACHE = "data/01_raw/fetched_checkpoints"
"""Where what is fetched is kept, unless `checkpoints.cache` says otherwise."""

# A drive of Windows has one letter.
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")


def scheme_of(address: str) -> str:
    """Return `s3` of s3://…, in small letters; empty of a path."""
    found = _SCHEME.match(address)
    return found[1].lower() if found else ""


def is_local(address: str) -> bool:
    """Return whether an address is a path on this machine."""
    return scheme_of(address) in ("", "file")


def local_path(address: str) -> Path:
    """Return the path that a local address means.

    Raises:
        InputError: If it names another machine, or a user without a home.
    """
    if not scheme_of(address):
        try:
            return Path(address).expanduser()
        except RuntimeError as error:
            raise InputError(
                f"checkpoints: {address!r} begins with the home of a user who has none here. Write "
                "the whole path."
            ) from error
    parts = urlsplit(address)
    if parts.netloc not in ("", "localhost"):
        raise InputError(
            f"checkpoints: {hide_credentials(address)!r} names the machine {parts.hostname!r}. A "
            "path on this one has three slashes, file:///srv/checkpoints."
        )
    return Path(url2pathname(parts.path))


def kept_at(address: str, cache: str | None) -> Path:
    """Return where what lies at an address is kept, whether it was fetched already or not.

    Args:
        address: Of anything that is not local.
        cache: Folder of all that is fetched; None means `CACHE`.
    """
    name = re.sub(r"[^A-Za-z0-9_.-]+", "_", last_part(address))[-60:]
    digest = hashlib.sha256(address.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    return local_path(cache or CACHE) / f"{name.strip('.') or 'checkpoints'}-{digest}"


def rates_file(address: str | None, cache: str | None) -> Path | None:
    """Return the file of learning rates that an address means; None where there is none."""
    if address is None:
        return None
    if is_local(address):
        return local_path(address)
    return kept_at(address, cache) / last_part(address)


def last_part(address: str) -> str:
    """Return the name behind the last slash, without what may be secret in an address."""
    return bare_address(address).rstrip("/").rpartition("/")[2]
