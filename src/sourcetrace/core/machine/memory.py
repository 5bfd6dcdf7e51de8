"""How much memory a run may take, and how much it has taken."""

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

try:
    import resource
except ImportError:  # Windows has none
    resource = None  # type: ignore[assignment]

_ASSUMED = 4 * 2**30
"""Where the system does not say what is free."""

_CONTAINERS = Path("/sys/fs/cgroup")
"""Where Linux says what a container may take; version 1 in a folder of its own, `memory`."""

_OWN_CONTAINERS = Path("/proc/self/cgroup")
"""Where Linux says which containers the process is in, below those of the machine."""

_FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""Of either version: the limit, what is used, and what of that gives way."""


def free_memory(device: torch.device) -> int:
    """Return the bytes that this process could still take on a device."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        # torch keeps what it freed, and hands it out again.
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    found = [_free_on_machine(), _free_of_process(), *map(_free_in_container, _containers())]
    return min((one for one in found if one is not None), default=_ASSUMED)


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


def return_freed() -> None:
    """Have glibc give back what is free between blocks in use, which it keeps otherwise."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # other C libraries have none
        if trim is not None:
            trim(0)


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


def _free_of_process() -> int | None:
    """Return what `ulimit -v` leaves; None where it sets no limit."""
    if resource is None:
        return None
    with contextlib.suppress(AttributeError, OSError, ValueError, IndexError):
        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        if limit != resource.RLIM_INFINITY:
            pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
            return max(0, limit - pages * resource.getpagesize())
    return None


def _containers(root: Path = _CONTAINERS, own: Path = _OWN_CONTAINERS) -> Iterator[Path]:
    """Yield the folders of the containers that the process may be in, and of those around them.

    Which is its own is seen by the files: from within, its folder is the root.
    """
    yield from (root, root / "memory")
    with contextlib.suppress(OSError, ValueError):
        for line in own.read_text(encoding="utf-8").splitlines():
            _, kinds, path = line.split(":", 2)
            if not kinds or "memory" in kinds.split(","):
                inner = root / ("memory" if kinds else "") / path.lstrip("/")
                while inner not in (root, root / "memory") and root in inner.parents:
                    yield inner
                    inner = inner.parent


def _free_in_container(folder: Path) -> int | None:
    """Return what a container's limit leaves; None where there is no limit."""
    for limit_file, used_file, gives_way in _FILES:
        with contextlib.suppress(OSError, ValueError):
            limit = int((folder / limit_file).read_text(encoding="ascii"))  # "max" is no number
            used = int((folder / used_file).read_text(encoding="ascii"))
            statistics = dict(
                line.split() for line in (folder / "memory.stat").read_text("ascii").splitlines()
            )
            # Files that were read count as used, and give way.
            return max(0, limit - used + int(statistics.get(gives_way, 0)))
    return None
