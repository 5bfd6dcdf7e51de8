"""A unit of work: what it is called, what decides its bytes, and its files."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from sourcetrace.errors import InputError
from sourcetrace.files import digest_of


@dataclass(frozen=True)
class Unit:
    """A piece of work whose result is kept.

    Attributes:
        stage: Of the audit.
        name: Its place in the stage's grid, such as `step_000120/g0/000000000-000006000`.
        made_of: Part -> digest: all that decides its bytes, the identities of the units that it
            reads among them.
        cost: Of its work, relative to other units'.
    """

    stage: str
    name: str
    made_of: Mapping[str, str] = field(hash=False)
    cost: float = field(default=1.0, compare=False)

    @cached_property
    def identity(self) -> str:
        """One digest of all that it is made of."""
        return digest_of(dict(self.made_of))


class CorruptUnitError(InputError):
    """A unit's files are not those that were written; it is missing from now on."""

    def __init__(self, unit: Unit, file: Path) -> None:
        super().__init__(
            f"{file} is damaged, or another file was put in its place. It is computed again by the "
            "next run."
        )
        self.unit = unit


class OtherUnitsError(Exception):
    """What is to be done has other units by now than were planned."""


class KeptFile(NamedTuple):
    """A file of a unit that is done; it is no more written to, and may be linked.

    Attributes:
        path: The file.
        digest: SHA-256 of its bytes.
    """

    path: Path
    digest: str
