"""Which device a run uses."""

import torch

from sourcetrace.errors import InputError
from sourcetrace.work.ranks import Rank


def pick_device(name: str) -> torch.device:
    """Return the device named; `auto` is a GPU where there is one.

    Raises:
        InputError: If the device does not exist here.
    """
    if name == "auto":
        # CUDA (or ROCm) alone: Apple's GPUs have no float64, which the curvature needs.
        return _own(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"attribution.device: {name!r} cannot be used here ({reason}). "
            "Set it to auto, cpu or a device that this machine has."
        ) from error
    return _own(device)


def _own(device: torch.device) -> torch.device:
    """Return this process's among the GPUs of the machine, where several share them."""
    local = Rank.here().local
    if device.type != "cuda" or device.index is not None or not local:
        return device
    return torch.device("cuda", local % torch.cuda.device_count())
