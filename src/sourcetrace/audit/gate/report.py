"""The gate's verdict as it is written, and the error with which it ends a run."""

import re
from typing import Annotated, Final, Literal
from xml.etree import ElementTree

from pydantic import BaseModel, ConfigDict, Field

from sourcetrace.schemas.metric_names import GateMetric

GATE_SCHEMA_VERSION: Final = "1.1"
"""Grows before the point when a reader of the file must change, behind it when fields are added."""

Outcome = Literal["pass", "warn", "inconclusive", "fail"]
Severity = Literal["warn", "inconclusive", "fail"]
OUTCOMES: tuple[Outcome, ...] = ("pass", "warn", "inconclusive", "fail")
"""From the best to the worst; the worst check decides."""

FiniteNumber = Annotated[float, Field(allow_inf_nan=False)]


_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that no XML document may have; a label can."""

_FOUND = {"fail": "failure", "inconclusive": "error"}


class Published(BaseModel):
    """A part of a file that other programs read: frozen, and nothing undocumented in it."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", json_schema_serialization_defaults_required=True
    )


class CheckResult(Published):
    """How one check came out.

    Attributes:
        name: The check in words, the same every night.
        metric: What it is about.
        status: What the check contributes to the outcome; `skipped`: it could not be held.
        severity: What exceeding the limit means.
        value: What was measured; null where nothing was, or it is not a finite number.
        limit: What was allowed, a baseline added in; null where there was none to compute.
        baseline: The approved value, of a check against a baseline.
        message: What was found, in a sentence.
        reason: Why it was skipped, in a few words; empty otherwise.
        advice: What to do; empty where nothing is to be done.
    """

    name: str
    metric: GateMetric
    status: Literal["pass", "warn", "inconclusive", "fail", "skipped"]
    severity: Severity
    value: FiniteNumber | None
    limit: FiniteNumber | None
    baseline: FiniteNumber | None
    message: str
    reason: str
    advice: str


class GateReport(Published):
    """The verdict on one audit.

    Attributes:
        schema_version: Of this file.
        sourcetrace_version: That wrote it.
        outcome: The worst of the checks.
        summary: The outcome in a sentence.
        scores_digest: SHA-256 of the scores that were judged.
        method: The attribution method of the scores.
        baseline: Path of the approved metrics, where one is set.
        checks: In the order of the parameters.
        metrics: Every metric that a check can be about; null where there is none.
    """

    schema_version: Literal["1.1"] = GATE_SCHEMA_VERSION
    sourcetrace_version: str
    outcome: Outcome
    summary: str
    scores_digest: str
    method: str
    baseline: str | None
    checks: tuple[CheckResult, ...]
    metrics: dict[GateMetric, FiniteNumber | None]

    def junit(self) -> str:
        """Return the verdict as JUnit XML, which every CI system shows: each check is a test case.

        Failed checks are failures, inconclusive ones errors.

        A check that warns passes, with the warning as its output; a skipped one says why.
        """
        statuses = [check.status for check in self.checks]
        counts = {
            "tests": len(statuses),
            "failures": statuses.count("fail"),
            "errors": statuses.count("inconclusive"),
            "skipped": statuses.count("skipped"),
        }
        attributes = {name: str(count) for name, count in counts.items()}
        root = ElementTree.Element("testsuites", {"name": "sourcetrace", **attributes})
        suite = ElementTree.SubElement(
            root, "testsuite", {"name": "gate", **attributes, "time": "0"}
        )
        for check in self.checks:
            case = ElementTree.SubElement(
                suite,
                "testcase",
                {"classname": "sourcetrace.gate", "name": _clean(check.name), "time": "0"},
            )
            message = _clean(check.message)
            advice = _clean(check.advice)
            if check.status in _FOUND:
                found = {"message": message, "type": check.severity}
                ElementTree.SubElement(case, _FOUND[check.status], found).text = advice
            elif check.status == "skipped":
                ElementTree.SubElement(case, "skipped", {"message": message})
            elif check.status == "warn":
                output = ElementTree.SubElement(case, "system-out")
                output.text = f"Warning: {message} {advice}"
        ElementTree.indent(root)
        document: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
        return document.decode() + "\n"


class GateFailed(Exception):  # noqa: N818, no error of the program: it is the verdict
    """The audit is complete and written, and its gate failed: which checks, and what to do.

    Attributes:
        report: The verdict.
    """

    def __init__(self, report: GateReport) -> None:
        self.report = report
        lines = [f"The gate failed: {report.summary}"]
        for check in report.checks:
            if check.status == "fail":
                lines += [f"• {check.message}", f"  {check.advice}"]
        lines.append(
            "The audit itself is complete: cleaning_report.html shows it, gate.json beside it has "
            "all checks, and docs/guide/operating_it.md says what to do."
        )
        super().__init__("\n".join(lines))

    def __reduce__(self) -> tuple[type["GateFailed"], tuple[GateReport]]:
        """Pickle with the report, not with the message: runners may be other processes."""
        return type(self), (self.report,)


def _clean(text: str) -> str:
    return _FORBIDDEN.sub("\ufffd", text)
