"""What must not leave the machine: arguments, options, passwords, addresses that hold one."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote, quote_plus

from sourcetrace.formats import shorten

HIDDEN = "***"

_SECRET_NAME = re.compile("password|passwd|secret|credential|api_?key", re.IGNORECASE)
_TOKEN_NAME = re.compile("token(?!iz)", re.IGNORECASE)
# A password may have an @, or a slash: the last @ ends it, and a colon tells it from a path.
_USER = re.compile(r"://(?:[^/\s@]*:(?:[^\s?]*@|\S*@)|[^/\s?]*@)")
# Libraries show a request without its scheme, too.
_QUERY = re.compile(r"(://[^\s?]*)\?\S+|\?[^\s=?]+=\S*")
# Of an audit under a namespace, too.
_ARGUMENTS = re.compile(r"(^|\.)(task\.arguments|checkpoints\.storage_options)(\.|$)")


def hide_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested parameters, their names as they are and secret values hidden."""
    return {key: _hidden(str(key), value) for key, value in values.items()}


def _hidden(name: str, value: Any, *, secret: bool = False) -> Any:
    """Return a parameter's value, `HIDDEN` in it where a name or an address in it says secret.

    Args:
        name: Dotted, `attribution.method`; everything under a `task.arguments` or a
            `checkpoints.storage_options` is hidden. A token that is a number is a model's.
        value: Any value.
        secret: Whether a name above says so.
    """
    last = name.rsplit(".", 1)[-1]
    secret = bool(
        secret
        or _ARGUMENTS.search(name)
        or _SECRET_NAME.search(last)
        or (_TOKEN_NAME.search(last) and not isinstance(value, int | float))
    )
    if isinstance(value, Mapping) and value:
        return {key: _hidden(f"{name}.{key}", one, secret=secret) for key, one in value.items()}
    if isinstance(value, list | tuple) and value and not secret:
        return [_hidden(name, one) for one in value]
    text = str(value)
    return HIDDEN if secret or hide_credentials(text) != text else value


def bare_address(address: str) -> str:
    """Return an address without user, password and query, which may hold a signature."""
    return _USER.sub("://", address).partition("?")[0]


def hide_credentials(text: str) -> str:
    """Return text whose addresses have no users, passwords and queries."""
    hidden = _USER.sub(f"://{HIDDEN}@", text)
    return _QUERY.sub(lambda found: f"{found[1] or ''}?{HIDDEN}", hidden)


def error_line(error: BaseException, *, limit: int = 300, secrets: Any = ()) -> str:
    """Return what went wrong, in a line without users and passwords.

    Args:
        error: It.
        limit: Characters.
        secrets: Texts that are hidden as well, however nested.
    """
    text = str(error).strip()
    # As libraries show them: themselves, quoted for Python, quoted for an address.
    shown = {way(one) for one in _texts(secrets) for way in (str, _escaped, quote, quote_plus)}
    for secret in sorted(shown, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    line = hide_credentials(text).split("\n", 1)[0]
    return shorten(f"{type(error).__name__}: {line}", limit=limit)


def _texts(secrets: Any) -> Iterator[str]:
    """Yield every text in a nested value, names apart."""
    if isinstance(secrets, Mapping):
        secrets = list(secrets.values())
    if isinstance(secrets, bytes):
        secrets = secrets.decode(errors="replace")
    if isinstance(secrets, str):
        yield from [secrets] if secrets else []
    elif isinstance(secrets, Iterable):
        for one in secrets:
            yield from _texts(one)


def _escaped(text: str) -> str:
    return repr(text)[1:-1]
