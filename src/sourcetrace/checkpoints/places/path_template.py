"""Where a registered version's checkpoints are: a template of the parameters, filled in.

What a registry says is only ever a part of a path, below a folder that the parameters name.
"""

import re
from collections.abc import Callable
from typing import Self

from sourcetrace.errors import InputError

_PLACE = re.compile(r"\{([^{}]*)\}")
# Of an address; a tag that chose a bucket would choose anything. MLflow's own are of one server.
_OUTERMOST = re.compile(r"^(?!runs:|models:)[A-Za-z][\w+.-]+:")
# No character that a shell, a template or a file system reads as anything but a name's.
_PART = re.compile(r"[\w.+=@ -]+")


class PathTemplate(str):
    """A path with `{version}`, `{run_id}` or `{tag:name}` in it.

    Raises:
        ValueError: If it cannot be filled in, or lets a tag choose the folder.
    """

    __slots__ = ()

    def __new__(cls, template: str) -> Self:
        """Return a template that has been checked."""
        places = _PLACE.findall(template)
        known = all(re.fullmatch(r"version|run_id|tag:.+", place) for place in places)
        if not known or re.search(r"[{}]", _PLACE.sub("", template)):
            raise ValueError(
                f"{template!r}: expected {{version}}, {{run_id}} and {{tag:name}} in it, and no "
                "other braces"
            )
        made = super().__new__(cls, template)
        if set(places) - {"version"} and not _OUTERMOST.sub("", made.folder).strip("./"):
            raise ValueError(
                f"{template!r}: what a registry says may only choose inside a folder that stands "
                "before it, as in data/01_raw/checkpoints/{tag:training.checkpoints}"
            )
        return made

    @property
    def folder(self) -> str:
        """The folder that it names before its first place."""
        return self.split("{", 1)[0].rpartition("/")[0]

    def fill(self, *, version: str, run_id: str | None, tag: Callable[[str], str | None]) -> str:
        """Return the path of a version's checkpoints.

        Args:
            version: Its number.
            run_id: Of the run that registered it.
            tag: Returns a tag's value, None where there is none.

        Raises:
            InputError: If the version lacks what the template needs, or it would lead elsewhere.
        """
        given = {"version": version, "run_id": run_id}

        def value(match: "re.Match[str]") -> str:
            place = match[1]
            found = given[place] if place in given else tag(place.removeprefix("tag:"))
            if not found:
                lacks = "was registered by no run" if place == "run_id" else f"has no {place}"
                raise InputError(f"version {version} {lacks}, which {self} needs.")
            for part in found.split("/"):
                if not _PART.fullmatch(part) or part in (".", ".."):
                    raise InputError(
                        f"version {version}: {place} is {found[:100]!r}; expected a path below "
                        f"{self.folder}, of letters, digits, spaces and _.+=@- alone."
                    )
            return found

        return _PLACE.sub(value, self)
