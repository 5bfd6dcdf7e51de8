"""What lies in a folder of checkpoints and cannot be read, and what to do with it."""

import re
from collections.abc import Sequence
from pathlib import Path

from sourcetrace.checkpoints.formats.distributed_files import METADATA
from sourcetrace.errors import InputError

_REMEDIES = {
    r".*_(model|optim)_states\.pt": (
        "a part of a checkpoint of DeepSpeed: put it together with the zero_to_fp32.py beside it"
    ),
    r".*_rank_?\d+\.bin": (
        "the part of one process: save by torch.distributed.checkpoint or the whole state"
    ),
    r".*\.(tar|tgz|zip|gz|bz2|xz|zst|7z)": "an archive: unpack it",
    r".*\.(pkl|pickle|joblib)": "a pickle: save the state_dict by torch.save",
    r".*\.(npy|npz|msgpack)": "not of torch: save the state_dict by torch.save",
    r".*\.(h5|keras|pb|tflite|index|data-\d+-of-\d+)": (
        "of TensorFlow or Keras: trainings by PyTorch alone can be audited"
    ),
    r".*\.(onnx|gguf|mlmodel|pte|pt2)": (
        "a model for inference: save checkpoints of the training that it came from"
    ),
}
"""By the whole name of a file, the first that fits."""


def remedies(files: Sequence[Path]) -> list[str]:
    """Return the name of every file that is known but cannot be read, and what to do with it."""
    found = []
    for file in files:
        known = (what for pattern, what in _REMEDIES.items() if re.fullmatch(pattern, file.name))
        what = next(known, None)
        if what is not None:
            found.append(f"{file.name} ({what})")
    return found


def refuse_parts(files: Sequence[Path]) -> None:
    """Refuse files that are parts of a checkpoint without what they need.

    Args:
        files: Of one folder.

    Raises:
        InputError: If there is one.
    """
    parts = [file for file in files if file.suffix == ".distcp"]
    if parts and not any(file.name == METADATA for file in files):
        raise InputError(
            f"{parts[0].parent.name} has {parts[0].name}, but no {METADATA}, without which "
            "torch.distributed.checkpoint does not know what lies where. Copy it too: its name "
            "begins with a dot, which `cp *` leaves out. Where the training never wrote it, "
            "saving was cut off: remove the folder."
        )
    others = [one for one in files if re.fullmatch(r".*_(model|optim)_states\.pt", one.name)]
    if others:
        raise InputError(
            f"{others[0].parent.name} has {remedies(others)[0]}. The parts alone are no checkpoint."
        )
