"""This process's place among those that do an audit."""

import os
from functools import partial
from pathlib import Path

import torch

from sourcetrace.errors import InputError
from sourcetrace.parameters import LaunchParameters
from sourcetrace.work.crew import CREW
from sourcetrace.work.ledger import Ledger
from sourcetrace.work.ranks import Rank
from sourcetrace.work.team import Team


def make_team(launch: LaunchParameters, folder: Path) -> Team:
    """Return the processes that do the audit, and share the cores out among them.

    Args:
        launch: How many there are to be.
        folder: In which units are kept.

    Raises:
        InputError: If somebody started another number of them.
    """
    rank = Rank.here()
    if launch.processes not in (1, rank.size) and rank.size > 1:
        raise InputError(
            f"launch.processes is {launch.processes}, but {rank.size} processes were started. Set "
            "it to 1, or to their number."
        )
    size = max(rank.size, launch.processes)
    # Said, as many as there are too: MKL would take fewer at times, and the last bits depend on it.
    shared_out = cores_each(size) if size > 1 else torch.get_num_threads()
    torch.set_num_threads(launch.threads or shared_out)
    call = partial(CREW.call, size=size, threads=torch.get_num_threads())
    return Team(
        Ledger(folder),
        rank.number,
        size,
        launch.timeout_seconds,
        call,
        kept_audits=launch.kept_audits,
    )


def cores_each(size: int) -> int:
    """Return the CPU cores that each of the processes of this machine has, at least one."""
    here = int(os.environ.get("LOCAL_WORLD_SIZE", size))
    return max(1, available_cores() // here)


def available_cores() -> int:
    """Return the CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
