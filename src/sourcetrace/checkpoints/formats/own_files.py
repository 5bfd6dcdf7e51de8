"""The one place where the files of checkpoints are read."""

from os.path import isfile
from pathlib import Path

from sourcetrace.errors import InputError


def read_own(file: Path, root: Path) -> bytes:
    """Return the bytes of a file of a checkpoint.

    Args:
        file: Where it lies, links in the path included.
        root: The folder of all checkpoints, which no link leads out of.

    Raises:
        InputError: If it leads out of the folder, is no file, as a pipe is none, or cannot be read.
    """
    name = file.relative_to(root).as_posix()
    if not isfile(file):  # a device or a pipe may have no end
        raise InputError(
            f"{name} is no file, or a link to none; expected a file of a checkpoint. Copy it "
            "again, or remove it."
        )
    target = file.resolve()
    if not target.is_relative_to(root.resolve()):
        raise InputError(
            f"{name} is a link that leads out of {str(root)!r}; expected files in it. Copy what it "
            "leads to (cp -L), or set checkpoints.path to the folder that has it."
        )
    try:
        return target.read_bytes()
    except OSError as error:
        raise InputError(
            f"{file} cannot be read: {error.strerror}. Expected a file of a checkpoint that you "
            "may read; copy it again."
        ) from error
