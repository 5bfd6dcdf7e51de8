"""How much memory a run may take, and how much it has taken."""

import contextlib
import os
import sys
from pathlib import Path

import torch

try:
    import resource
except ImportError:  # Windows has none
    resource = None  # type: ignore[assignment]

_ASSUMED = 4 * 2**30
"""Where the system does not say what is free."""

_CONTAINER = Path("/sys/fs/cgroup")
"""Where Linux says what a container may take."""


def free_memory(device: torch.device) -> int:
    """Return the bytes that this process could still take on a device."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        # torch keeps what it freed, and hands it out again.
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    found = [one for one in (_free_on_machine(), _free_in_container()) if one is not None]
    return min(found, default=_ASSUMED)


def peak_memory(device: torch.device) -> int:
    """Return the most bytes that were taken at once.

    On a GPU since `start_peak`; on a CPU by the whole process since it began, 0 where the system
    does not say.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if resource is None:
        return 0
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def start_peak(device: torch.device) -> None:
    """Let `peak_memory` start anew where it can."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def _free_on_machine() -> int | None:
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    with contextlib.suppress(AttributeError, OSError, ValueError):
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def _free_in_container(folder: Path = _CONTAINER) -> int | None:
    """Return what a container's limit leaves; None where there is no limit."""
    with contextlib.suppress(OSError, ValueError):
        limit = int((folder / "memory.max").read_text(encoding="ascii"))  # "max" is no number
        used = int((folder / "memory.current").read_text(encoding="ascii"))
        statistics = dict(
            line.split() for line in (folder / "memory.stat").read_text("ascii").splitlines()
        )
        # Files that were read count as used, and give way.
        return max(0, limit - used + int(statistics.get("inactive_file", 0)))
    return None
