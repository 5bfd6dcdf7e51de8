"""Which of the processes of a launch this one is."""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

from sourcetrace.errors import InputError

RANK, SIZE = "SOURCETRACE_RANK", "SOURCETRACE_PROCESSES"
"""Of processes that an audit starts itself. Under torchrun's names, a task's libraries would wait
for each other."""

_SAID_BY = (
    (RANK, SIZE, RANK, ()),
    ("RANK", "WORLD_SIZE", "LOCAL_RANK", ("TORCHELASTIC_RUN_ID",)),
    # Of a step alone: a batch script has other variables of Slurm's, and is one process.
    (
        "SLURM_PROCID",
        "SLURM_STEP_NUM_TASKS",
        "SLURM_LOCALID",
        ("SLURM_JOB_ID", "SLURM_STEP_ID"),
    ),
)
"""Variables of who starts processes: the rank, how many there are, the rank among those of a
machine, and what names the launch."""

_TOLD = re.compile(
    rf"{RANK}|{SIZE}|RANK|WORLD_SIZE|(LOCAL|GROUP|ROLE|NODE)_(RANK|WORLD_SIZE|NAME)"
    "|MASTER_(ADDR|PORT)|TORCHELASTIC_.*|SLURM_(PROCID|LOCALID|NODEID|NNODES|NTASKS.*|STEP_.*)"
)
"""All variables by which a library knows that its process is one of several."""


@dataclass(frozen=True)
class Rank:
    """A process among those that do an audit.

    Attributes:
        number: From 0; the first talks to Kedro, MLflow and the terminal.
        size: How many there are; 1 where nobody started several.
        local: The number among those of the machine.
        launch: Names the launch, as all its processes know it.
    """

    number: int = 0
    size: int = 1
    local: int = 0
    launch: str = ""

    @classmethod
    def here(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """Return that of this process, as torchrun, Slurm or a Kubernetes job's manifest say it.

        Raises:
            InputError: If they say none.
        """
        for number, size, local, launch in _SAID_BY:
            if number in environment and size in environment:
                said, count = environment[number], environment[size]
                if not (said.isdecimal() and count.isdecimal() and int(said) < int(count)):
                    raise InputError(
                        f"{number} is {said!r} and {size} is {count!r} in the environment. "
                        "Expected this process's number, from 0, and how many were started, which "
                        "is more. Correct what starts the processes; or unset both, for one."
                    )
                named = [environment[name] for name in launch if name in environment]
                place = [environment.get(name, "") for name in ("MASTER_ADDR", "MASTER_PORT")]
                return cls(
                    int(said),
                    int(count),
                    int(environment.get(local) or 0),
                    ":".join(named or place),
                )
        return cls()


@contextmanager
def as_alone() -> Iterator[None]:
    """Hide what says that this process is one of several from a user's code, which does not know.

    Lightning's trainer and others would wait for their like in the other processes.
    """
    hidden = {name: os.environ.pop(name) for name in list(os.environ) if _TOLD.fullmatch(name)}
    try:
        yield
    finally:
        os.environ.update(hidden)
