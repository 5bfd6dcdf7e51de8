"""What is kept of an audit for those after it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from sourcetrace.audit.comparison.summary import AuditPoint
from sourcetrace.validation import JsonRecord


@dataclass(frozen=True)
class AuditFigures(JsonRecord):
    """An audit in numbers.

    Attributes:
        identity: Of the audit: the same scores of the same data are the same audit.
        task: Import path of the task's class.
        model: Name of the registered model, where one is set.
        method: The attribution method.
        scores_digest, training_digest, query_digest: Of scores and data.
        point: Its figures in the trends.
        spectra: Rows of `schemas.CurvatureSpectra`.
    """

    identity: str
    task: str
    model: str | None
    method: str
    scores_digest: str
    training_digest: str
    query_digest: str
    point: AuditPoint
    spectra: tuple[Mapping[str, Any], ...]

    @property
    def series(self) -> tuple[str, str | None]:
        """What is audited: audits of one series are compared."""
        return self.task, self.model

    def those_before(self, history: "Sequence[AuditFigures]") -> "Sequence[AuditFigures]":
        """Return the audits of a history before this one, oldest first.

        Where the newest is this one, it runs again: it is compared with what it was compared with
        the first time. An older audit that came to the same is one to compare with.
        """
        again = bool(history) and history[-1].identity == self.identity
        return history[:-1] if again else history


@dataclass(frozen=True)
class AuditSnapshot:
    """An audit as it is handed over to be kept; until it is judged, its point is unfinished.

    Attributes:
        figures: Its numbers; the time it ended is set where it is kept.
        examples: A row a training example, in their order: the columns of
            `schemas.ExampleDigests`, `rank`, `harm`, `suspect`, `audits_suspected`.
        keep: How many audits of its series are kept.
    """

    figures: AuditFigures
    examples: pl.DataFrame
    keep: int = 1
