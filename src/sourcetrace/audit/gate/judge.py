"""Hold measured values against limits: each check for itself, then the worst decides.

    pass < warn < inconclusive < fail

A check whose metric is not there is skipped and says why. A value that is no finite number
exceeds every limit: what cannot be computed must not pass.
"""

from collections.abc import Mapping
from typing import Literal

from sourcetrace.audit.gate.baseline import Baseline
from sourcetrace.audit.gate.measured import Measured
from sourcetrace.audit.gate.report import CheckResult, Outcome, worst
from sourcetrace.parameters import BaselineMargin, GateCheck, GateParameters
from sourcetrace.schemas.metric_names import METRICS, GateMetric

_SIGNS = {"at_most": "≤", "at_least": "≥"}


def judge(
    metrics: Mapping[GateMetric, Measured],
    *,
    gate: GateParameters,
    baseline: Baseline,
) -> tuple[CheckResult, ...]:
    """Return how every check came out, in the order of the parameters.

    Args:
        metrics: What was measured; a metric that is not there counts as not measured.
        gate: The checks.
        baseline: The approved metrics, if any.
    """
    checks = gate.checks
    if gate.require_verification:
        required = GateCheck(metric="trust_verified", at_least=1.0, severity="inconclusive")
        checks = (required, *checks)
    return tuple(
        _result(
            check,
            metrics.get(check.metric, Measured(None, "the audit did not measure it")),
            baseline,
        )
        for check in checks
    )


def outcome_of(results: tuple[CheckResult, ...]) -> Outcome:
    """Return the worst of the checks; inconclusive where checks are set and none could be held."""
    held: list[Outcome] = [r.status for r in results if r.status != "skipped"]
    if results and not held:
        return "inconclusive"
    return worst(held)


def summarise(results: tuple[CheckResult, ...]) -> str:
    """Return the outcome in a sentence: how many checks came out how."""
    if not results:
        return "No checks are set (gate.checks): nothing was judged."
    counts = dict.fromkeys(("fail", "inconclusive", "warn", "pass", "skipped"), 0)
    for result in results:
        counts[result.status] += 1
    words = {
        "fail": "failed",
        "inconclusive": "inconclusive",
        "warn": "warned",
        "pass": "passed",
        "skipped": "skipped",
    }
    told = ", ".join(f"{count} {words[status]}" for status, count in counts.items() if count)
    noun = "check" if len(results) == 1 else "checks"
    return f"{len(results)} {noun}: {told}."


def limit_of(check: GateCheck, approved: float | None) -> float | None:
    """Return the number that a value is held against; None where it takes a missing baseline.

    A factor moves the limit away from the baseline by a share of its size, so that it allows
    more, never less, of a negative baseline too: b + |b|·(factor − 1).
    """
    if check.at_most is not None or check.at_least is not None:
        return check.at_most if check.at_most is not None else check.at_least
    if approved is None:
        return None
    margin = check.margin
    if margin.difference is not None:
        return approved + (margin.difference if check.is_upper else -margin.difference)
    return approved + abs(approved) * ((margin.factor or 1.0) - 1.0)


def name_of(check: GateCheck) -> str:
    """Return the check in words: `harmful_share ≤ baseline + 0.02 (fail)`."""
    sign = _SIGNS["at_most" if check.is_upper else "at_least"]
    if check.is_relative:
        limit = _margin_text(check.margin, upper=check.is_upper)
    else:
        limit = f"{limit_of(check, None):g}"
    return f"{check.metric} {sign} {limit} ({check.severity})"


def _result(check: GateCheck, measured: Measured, baseline: Baseline) -> CheckResult:
    approved = (baseline.metrics or {}).get(check.metric) if check.is_relative else None
    limit = limit_of(check, approved)
    status: Outcome | Literal["skipped"] = check.severity
    reason = ""
    if measured.value is None:
        status, reason = "skipped", measured.detail
        message = f"{check.metric} is not measured: {reason}."
    elif limit is None:
        status, reason = "skipped", baseline.why_without(check.metric)
        message = f"{check.metric} was not held to a limit: {reason}."
    elif measured.finite is None:
        message = f"{check.metric} is no finite number{_bracketed(measured.detail)}."
    else:
        if measured.value <= limit if check.is_upper else measured.value >= limit:
            status = "pass"
        value_text, limit_text = _distinct(measured.value, limit)
        allowed = (
            f"at most {limit_text} is allowed"
            if check.is_upper
            else f"at least {limit_text} is required"
        )
        if approved is not None:
            allowed += f", the baseline being {approved:.4g}"
        message = f"{check.metric} is {value_text}{_bracketed(measured.detail)}; {allowed}."
    return CheckResult(
        name=name_of(check),
        metric=check.metric,
        status=status,
        severity=check.severity,
        value=measured.finite,
        limit=limit,
        baseline=approved,
        message=message,
        reason=reason,
        advice="" if status in {"pass", "skipped"} else METRICS[check.metric].advice,
    )


def _bracketed(detail: str) -> str:
    return f" ({detail})" if detail else ""


def _margin_text(margin: BaselineMargin, *, upper: bool) -> str:
    if margin.difference is not None:
        return f"baseline {'+' if upper else '−'} {margin.difference:g}"
    return f"{margin.factor:g} × baseline"


def _distinct(value: float, limit: float) -> tuple[str, str]:
    """Write two numbers with as many digits as it takes to tell them apart."""
    for digits in range(4, 18):
        texts = f"{value:.{digits}g}", f"{limit:.{digits}g}"
        if texts[0] != texts[1] or value == limit:
            break
    return texts
