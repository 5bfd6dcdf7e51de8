"""When an audit passes."""

from typing import Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from sourcetrace.parameters.base import Parameters
from sourcetrace.schemas.metric_names import TRUST_PREFIX, GateMetric


class _Terse(Parameters):
    """Parameters of which one of several is given; the others are not written."""

    @model_serializer(mode="wrap")
    def _without_nulls(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # MLflow's parameters are short, and a null says nothing.
        return {name: value for name, value in handler(self).items() if value is not None}


class _BaselineMargin(_Terse):
    """How far from an approved value a metric may be: one of the two.

    Attributes:
        difference: In the metric's units, away from the baseline in the allowed direction.
        factor: Times the baseline.
    """

    difference: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    factor: float | None = Field(default=None, gt=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.difference is None) == (self.factor is None):
            raise ValueError("give either difference or factor, e.g. {difference: 0.02}")
        return self


class GateCheck(_Terse):
    """One limit of the gate; exactly one of the four kinds.

    Attributes:
        metric: One of `gate.metric_names.METRICS`.
        at_most: Largest allowed value.
        at_least: Smallest allowed value.
        at_most_over_baseline: How much larger than the approved value; a factor is at least 1.
        at_least_under_baseline: How much smaller than the approved value; a factor is at most 1.
        severity: What exceeding the limit makes of the audit. Too little trust is never only a
            warning: of a metric `trust_…`, `inconclusive` or `fail`.
    """

    metric: GateMetric
    at_most: float | None = Field(default=None, allow_inf_nan=False)
    at_least: float | None = Field(default=None, allow_inf_nan=False)
    at_most_over_baseline: _BaselineMargin | None = None
    at_least_under_baseline: _BaselineMargin | None = None
    severity: Literal["warn", "inconclusive", "fail"] = "fail"

    @property
    def is_upper(self) -> bool:
        """Whether the limit is an upper one."""
        return self.at_most is not None or self.at_most_over_baseline is not None

    @property
    def is_relative(self) -> bool:
        """Whether the limit is against a baseline."""
        return self.at_most is None and self.at_least is None

    @property
    def margin(self) -> _BaselineMargin:
        """The margin of a limit against a baseline.

        Raises:
            ValueError: If the limit is absolute.
        """
        margin = self.at_most_over_baseline or self.at_least_under_baseline
        if margin is None:
            raise ValueError(f"the limit of {self.metric} is absolute")
        return margin

    @model_validator(mode="after")
    def _one_sound_limit(self) -> Self:
        kinds = ("at_most", "at_least", "at_most_over_baseline", "at_least_under_baseline")
        given = [kind for kind in kinds if getattr(self, kind) is not None]
        if len(given) != 1:
            raise ValueError(
                f"{self.metric}: give exactly one of {', '.join(kinds)}; got "
                f"{', '.join(given) or 'none'}"
            )
        factor = self.margin.factor if self.is_relative else None
        if factor is not None and (factor < 1 if self.is_upper else factor > 1):
            raise ValueError(
                f"{self.metric}: the factor of {given[0]} is {factor:g}, which would refuse the "
                f"baseline itself; expected at {'least' if self.is_upper else 'most'} 1"
            )
        if self.metric.startswith(TRUST_PREFIX) and self.severity == "warn":
            raise ValueError(
                f"{self.metric}: too little trust is never only a warning; set severity to "
                "inconclusive or fail"
            )
        return self


class GateParameters(Parameters):
    """When an audit passes.

    Attributes:
        baseline: Path of an approved `gate.json`, for checks against a baseline.
        require_verification: Whether scores that no retraining has tested are inconclusive.
        checks: The limits.
        slice_columns: Columns of the training table for `slice_concentration`.
        group_minimum: Examples that a label or slice needs to count for a concentration.
        suspects: Ids of the first suspects in audit.json.
    """

    baseline: str | None = None
    require_verification: bool = False
    checks: tuple[GateCheck, ...] = ()
    slice_columns: tuple[str, ...] = ()
    group_minimum: int = Field(default=20, ge=1)
    suspects: int = Field(default=20, ge=0)
