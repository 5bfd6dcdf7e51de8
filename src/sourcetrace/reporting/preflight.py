"""What a preflight found: a line a check, the checkpoints, and the parameters by layer."""

from dataclasses import dataclass
from typing import Literal

from sourcetrace.errors import InputError
from sourcetrace.validation import JsonRecord

Status = Literal["ok", "warning", "refused", "skipped"]


@dataclass(frozen=True)
class CheckLine:
    """One check.

    Attributes:
        title: What was checked.
        status: `skipped` where something that it needs was refused.
        text: What was found, or what to change.
    """

    title: str
    status: Status
    text: str


@dataclass(frozen=True)
class CheckpointLine:
    """One checkpoint.

    Attributes:
        file: Its name in the folder.
        format: What wrote it.
        step, stage, optimizer, learning_rate: As it says itself.
        rates: Where the learning rates of its steps come from; empty where that was refused.
        step_mass: τ of its steps; None where that was refused.
    """

    file: str
    format: str
    step: int
    stage: str
    optimizer: str
    learning_rate: float
    rates: str = ""
    step_mass: float | None = None


@dataclass(frozen=True)
class LayerLine:
    """A layer, or a parameter without attribution.

    Attributes:
        name: Of the layer, or of the parameter.
        size: Numbers in it.
        share: Of all parameters.
        reason: Why there is no attribution; empty where there is.
    """

    name: str
    size: int
    share: float
    reason: str = ""


@dataclass(frozen=True)
class Preflight(JsonRecord):
    """All of it.

    Attributes:
        seconds: How long it took.
        checks: In the order of an audit.
        checkpoints: In the order of training; none where they were refused.
        layers: The attributed layers, then the other parameters; none where that was refused.
    """

    seconds: float
    checks: tuple[CheckLine, ...]
    checkpoints: tuple[CheckpointLine, ...] = ()
    layers: tuple[LayerLine, ...] = ()

    def titles(self, status: Status) -> list[str]:
        """Return the checks of a status."""
        return [one.title for one in self.checks if one.status == status]


class PreflightRefused(InputError):  # noqa: N818, it is the verdict
    """An audit would end with an error: which checks refused its inputs."""

    def __init__(self, report: Preflight) -> None:
        refused = report.titles("refused")
        super().__init__(
            f"An audit would end with an error: {len(refused)} of {len(report.checks)} checks "
            f"refused ({', '.join(refused)}). What to change stands beside each."
        )
