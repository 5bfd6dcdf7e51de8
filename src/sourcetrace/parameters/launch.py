"""How many processes do the numerical stages."""

from typing import Annotated, Literal

from pydantic import Field

from sourcetrace.parameters.base import Parameters


class LaunchParameters(Parameters):
    """The processes that work on an audit together.

    Attributes:
        processes: On this machine, this one among them. Under torchrun, Slurm or Kubernetes these
            start the processes: 1, or as many as there are.
        threads: Of torch in each process; null shares the cores out.
        timeout_seconds: After which a process that is at one unit of work hangs, and is ended;
            longer where units take long. A process alone has all the time.
        unit_seconds: What a unit of work, all that a kill loses, is to take.
        read: Which training examples a process reads that did not start the audit: `all`, or its
            `own`, those of its units, each compared with the ingest's as it is read.
        kept_audits: Whose units of work are kept in the folder, the one at hand among them.
    """

    processes: int = Field(default=1, ge=1)
    threads: Annotated[int, Field(ge=1)] | None = None
    timeout_seconds: float = Field(default=1800.0, gt=0)
    unit_seconds: float = Field(default=10.0, gt=0)
    read: Literal["all", "own"] = "all"
    kept_audits: int = Field(default=2, ge=1)
