"""A folder of pictures with a sub-folder a class, as torchvision's `ImageFolder` reads it."""

import os
from pathlib import Path
from typing import Final

import polars as pl

from sourcetrace.errors import InputError

FILE: Final = "file"
"""Column of a picture's path below the folder."""

# Of ImageFolder, which knows no .gif.
_SUFFIXES: Final = frozenset(
    {".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)


def classes_of_folder(folder: Path) -> list[str]:
    """Return the names of all sub-folders, those without pictures and links too, sorted."""
    return sorted(one.name for one in os.scandir(folder) if one.is_dir())


def table_of_folder(folder: Path, called: str, *, classes: bool) -> pl.DataFrame:
    """Return a row a picture below a folder: `file`, the same as its id, and `label`, its class.

    Raises:
        InputError: If there is none, or a link leads out of the folder or around in it.
    """
    suffixes = _SUFFIXES if classes else _SUFFIXES | {".gif"}
    found = []
    for place, folders, files in os.walk(folder, followlinks=True):
        pictures = [name for name in files if Path(name).suffix.lower() in suffixes]
        found += [Path(place, name).relative_to(folder) for name in pictures]
        for link in map(Path(place).joinpath, {*folders, *files} - {*pictures}):
            if link.is_symlink():
                _refuse_astray(link, folder, called)
    if classes:
        found = [file for file in found if len(file.parts) > 1]
    if not found:
        raise InputError(
            f"{called}: {folder} holds no picture{' in a sub-folder' if classes else ''}; expected "
            "a sub-folder for each class. A table of pictures is named by its file."
        )
    found.sort()
    names = [file.as_posix() for file in found]
    return pl.DataFrame(
        {FILE: names, "example_id": names, "label": [file.parts[0] for file in found]}
    )


def _refuse_astray(link: Path, folder: Path, called: str) -> None:
    """Refuse a linked sub-folder that is nowhere, lies elsewhere or holds the link itself."""
    target = Path(os.path.realpath(link))
    above = {one.resolve() for one in link.parents if one.is_relative_to(folder)}
    inside = target.is_dir() and target.is_relative_to(folder.resolve()) and target not in above
    if not inside and not target.is_file():
        raise InputError(
            f"{called}: {link} is a link to {target}, which is no other folder below {folder}; "
            "links out of it are not followed. Copy the folder into the link's place."
        )
