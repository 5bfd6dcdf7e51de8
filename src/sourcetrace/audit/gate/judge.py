"""Hold measured values against limits: each check for itself, then the worst decides.

    pass < warn < inconclusive < fail

A check whose metric is not there is skipped and says why. A value that is no finite number
exceeds every limit: what cannot be computed must not pass.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Literal

from sourcetrace import __version__
from sourcetrace.audit.gate.baseline import Baseline
from sourcetrace.audit.gate.measured import Measured
from sourcetrace.audit.gate.report import OUTCOMES, CheckResult, GateReport, Outcome
from sourcetrace.formats import format_noun, with_environment
from sourcetrace.parameters import GateCheck, GateParameters
from sourcetrace.schemas.metric_names import METRICS, GateMetric

_WORDS: Mapping[str, str] = {
    "fail": "failed",
    "inconclusive": "inconclusive",
    "warn": "warned",
    "pass": "passed",
    "skipped": "skipped",
}


_SAYS_NOTHING = CheckResult(
    name="some score is not 0 (inconclusive)",
    metric="harmful_share",
    status="inconclusive",
    severity="inconclusive",
    value=0.0,
    limit=None,
    baseline=None,
    message="Every score is 0: the loss has no gradient at the audited checkpoints.",
    reason="",
    advice="Look at the model and its checkpoints; an audit of this one cannot find anything.",
)
"""Of a constant or dead model: no share of harmful examples says anything of it."""


def judge(
    metrics: Mapping[GateMetric, Measured],
    *,
    gate: GateParameters,
    baseline: Baseline,
    scores_digest: str,
    method: str,
    says_nothing: bool = False,
    environment: str = "",
) -> GateReport:
    """Return the verdict, its checks in the order of the parameters.

    Args:
        metrics: What was measured; a metric that is not there counts as not measured.
        gate: The checks.
        baseline: The approved metrics, if any.
        scores_digest: Of the scores that are judged.
        method: Of these.
        says_nothing: Whether all scores are 0.
        environment: That commands of the advice shall have.
    """
    checks = gate.checks
    if gate.require_verification:
        required = GateCheck(metric="trust_verified", at_least=1.0, severity="inconclusive")
        checks = (required, *checks)
    unknown = Measured(None, "the audit did not measure it")
    results = (
        *([_SAYS_NOTHING] if says_nothing else []),
        *(
            _result(check, metrics.get(check.metric, unknown), baseline, environment)
            for check in checks
        ),
    )
    return GateReport(
        sourcetrace_version=__version__,
        outcome=_outcome_of(results),
        summary=_summarise(results),
        scores_digest=scores_digest,
        method=method,
        baseline=gate.baseline,
        checks=results,
        metrics={name: one.finite for name, one in metrics.items()},
    )


def _outcome_of(results: tuple[CheckResult, ...]) -> Outcome:
    """Return the worst of the checks; inconclusive where checks are set and none could be held."""
    held: list[Outcome] = [r.status for r in results if r.status != "skipped"]
    if results and not held:
        return "inconclusive"
    return max(held, key=OUTCOMES.index, default="pass")


def _summarise(results: tuple[CheckResult, ...]) -> str:
    """Return the outcome in a sentence: how many checks came out how."""
    if not results:
        return "No checks are set (gate.checks): nothing was judged."
    counts: Counter[str] = Counter(result.status for result in results)
    told = ", ".join(f"{counts[one]} {word}" for one, word in _WORDS.items() if counts[one])
    return f"{format_noun(len(results), 'check')}: {told}."


def _limit_of(check: GateCheck, approved: float | None) -> float | None:
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


def _name_of(check: GateCheck) -> str:
    """Return the check in words: `harmful_share ≤ baseline + 0.02 (fail)`."""
    if not check.is_relative:
        limit = f"{_limit_of(check, None):g}"
    elif check.margin.difference is not None:
        limit = f"baseline {'+' if check.is_upper else '−'} {check.margin.difference:g}"
    else:
        limit = f"{check.margin.factor:g} × baseline"
    return f"{check.metric} {'≤' if check.is_upper else '≥'} {limit} ({check.severity})"


def _result(
    check: GateCheck, measured: Measured, baseline: Baseline, environment: str
) -> CheckResult:
    approved = (baseline.metrics or {}).get(check.metric) if check.is_relative else None
    limit = _limit_of(check, approved)
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
            f"at {'most' if check.is_upper else 'least'} {limit_text} is "
            f"{'allowed' if check.is_upper else 'required'}"
        )
        if approved is not None:
            allowed += f", the baseline being {approved:.4g}"
        message = f"{check.metric} is {value_text}{_bracketed(measured.detail)}; {allowed}."
    return CheckResult(
        name=_name_of(check),
        metric=check.metric,
        status=status,
        severity=check.severity,
        value=measured.finite,
        limit=limit,
        baseline=approved,
        message=message,
        reason=reason,
        advice=""
        if status in {"pass", "skipped"}
        else with_environment(METRICS[check.metric], environment),
    )


def _bracketed(detail: str) -> str:
    return f" ({detail})" if detail else ""


def _distinct(value: float, limit: float) -> tuple[str, str]:
    """Write two numbers with as many digits as it takes to tell them apart."""
    for digits in range(4, 18):
        texts = f"{value:.{digits}g}", f"{limit:.{digits}g}"
        if texts[0] != texts[1] or value == limit:
            break
    return texts
