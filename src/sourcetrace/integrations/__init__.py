"""Optional extras: what they need is installed by `pip install 'sourcetrace[NAME]'`."""

from collections.abc import Iterator
from contextlib import contextmanager

from sourcetrace.errors import InputError


@contextmanager
def extra(name: str, *, because: str, otherwise: str = "") -> Iterator[None]:
    """Import an extra within.

    Args:
        name: Of the extra in pyproject.toml.
        because: What asks for it, as the beginning of a sentence.
        otherwise: What else to do, as its end.

    Raises:
        InputError: If a package of the extra is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise InputError(
            f"{because}, but the package {error.name} is not installed. "
            f"Run `pip install 'sourcetrace[{name}]'`{otherwise}."
        ) from error
