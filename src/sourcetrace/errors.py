"""The one error a user is meant to read, and where another was raised."""

import traceback


class InputError(ValueError):
    """An input is wrong; the message says what was expected, what came and what to change."""


class OtherDataError(InputError):
    """One of several processes reads other data than the one that started the audit."""


def with_place(error: BaseException, said: str | None = None) -> str:
    """Return an error's kind, what it says, and the file and line that raised it: a user's code.

    Args:
        error: It.
        said: In place of its own text.
    """
    at = traceback.extract_tb(error.__traceback__)[-1]
    text = str(error) if said is None else said
    return f"{type(error).__name__}: {text} ({at.filename}, line {at.lineno})"
