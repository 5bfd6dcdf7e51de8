"""Where a registered version's checkpoints are: a template of the parameters, filled in.

What a registry says is only ever a part of a path, below a folder that the parameters name.
"""

import re
from collections.abc import Callable

from sourcetrace.errors import InputError

_PLACE = re.compile(r"\{([^{}]*)\}")
_TAG = "tag:"
# No character that a shell, a template or a file system reads as anything but a name's.
_PART = re.compile(r"[\w.+=@ -]+")


def checked_template(template: str) -> str:
    """Return a template, unless it cannot be filled in, or lets a tag choose the folder.

    Raises:
        ValueError: Saying what is expected.
    """
    places = _PLACE.findall(template)
    unknown = [
        place
        for place in places
        if place not in ("version", "run_id") and not (place.startswith(_TAG) and place != _TAG)
    ]
    if unknown or re.search(r"[{}]", _PLACE.sub("", template)):
        raise ValueError(
            f"{template!r}: expected {{version}}, {{run_id}} and {{tag:name}} in it, and no other "
            "braces"
        )
    if set(places) - {"version"} and not _folder(template).strip("./"):
        raise ValueError(
            f"{template!r}: what a registry says may only choose inside a folder that stands "
            "before it, as in data/01_raw/checkpoints/{tag:training.checkpoints}"
        )
    return template


def fill_template(
    template: str, *, version: str, run_id: str | None, tag: Callable[[str], str | None]
) -> str:
    """Return the path of a version's checkpoints.

    Args:
        template: Of `tracking.pending`.
        version: Its number.
        run_id: Of the run that registered it.
        tag: Returns a tag's value, None where there is none.

    Raises:
        InputError: If the version lacks what the template needs, or it would lead elsewhere.
    """
    given = {"version": version, "run_id": run_id}

    def value(match: "re.Match[str]") -> str:
        place = match[1]
        found = given[place] if place in given else tag(place.removeprefix(_TAG))
        if not found:
            lacks = "was registered by no run" if place == "run_id" else f"has no {place}"
            raise InputError(f"version {version} {lacks}, which {template} needs.")
        for part in found.split("/"):
            if not _PART.fullmatch(part) or part in (".", ".."):
                raise InputError(
                    f"version {version}: {place} is {found[:100]!r}; expected a path below "
                    f"{_folder(template)}, of letters, digits, spaces and _.+=@- alone."
                )
        return found

    return _PLACE.sub(value, template)


def _folder(template: str) -> str:
    """Return the folder that a template names before its first place."""
    return template.split("{", 1)[0].rpartition("/")[0]
