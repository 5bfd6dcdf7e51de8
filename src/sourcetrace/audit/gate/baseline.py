"""The approved metrics that later audits are compared with."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from pydantic import BaseModel, ConfigDict

from sourcetrace.audit.gate.report import FiniteNumber
from sourcetrace.errors import InputError
from sourcetrace.validation import validated


class _Approved(BaseModel):
    model_config = ConfigDict(strict=True)

    metrics: dict[str, FiniteNumber | None]


@dataclass(frozen=True)
class Baseline:
    """What checks against a baseline are compared with.

    Attributes:
        path: Of the file, where one is set.
        metrics: Approved values by name; None where no file is set.
    """

    path: str | None = None
    metrics: Mapping[str, float] | None = None

    def why_without(self, metric: str) -> str:
        """Say why there is no approved value of a metric."""
        if self.path is None:
            return "no baseline is set (gate.baseline)"
        return f"no baseline: {self.path} has no {metric}"

    @classmethod
    def parse(cls, content: Any, *, path: str | None) -> Self:
        """Return the baseline in a file: a `gate.json` that somebody approved.

        Any mapping will do that has the metrics by name under `metrics`; null is no value.

        Args:
            content: The parsed file; None where there is none.
            path: Where it is; None where no baseline is set.

        Raises:
            InputError: If it is not there, or is something else.
        """
        if path is None:
            return cls()
        if content is None:
            # Not skipped: a name that is misspelt would turn off the limits that fail an audit.
            raise InputError(
                f"gate.baseline: there is no file {path}. Approve an audit: cp "
                f"data/08_reporting/gate.json {path}; null until there is one to approve."
            )
        approved = validated(
            _Approved,
            content if isinstance(content, Mapping) else {},
            before=f'{path} is no baseline: expected {{"metrics": {{name: number}}}}, as gate.json '
            "has it. ",
            after=" Copy the gate.json of an audit that you approve there.",
        )
        known = {name: value for name, value in approved.metrics.items() if value is not None}
        return cls(path, known)
