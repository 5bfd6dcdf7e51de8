"""The error with which a failed gate ends the run."""

from sourcetrace.audit.gate.report import GateReport


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
            "all checks, and docs/audits.md says what to do."
        )
        super().__init__("\n".join(lines))

    def __reduce__(self) -> tuple[type["GateFailed"], tuple[GateReport]]:
        """Pickle with the report, not with the message: runners may be other processes."""
        return type(self), (self.report,)
