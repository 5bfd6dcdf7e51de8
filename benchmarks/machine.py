"""What a benchmark ran on, in one line; torch alone, so that a machine with nothing else has it."""

import os
import platform
from pathlib import Path

import torch


def describe_machine(*, threads: int | None = None) -> str:
    """Return the processor's name, its cores, the threads used and the versions.

    Args:
        threads: Of the measured processes; this one's own if not given.
    """
    used = threads or torch.get_num_threads()
    return (
        f"{processor_name()}, {os.cpu_count()} cores, {used} threads; "
        f"Python {platform.python_version()}, torch {torch.__version__}"
    )


def processor_name() -> str:
    """Return the name that Linux gives the processor, or what Python knows of it."""
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()
