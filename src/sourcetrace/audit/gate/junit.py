"""The verdict as JUnit XML, which every CI system shows: each check is a test case."""

import re
from xml.etree import ElementTree

from sourcetrace.audit.gate.report import GateReport

_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that no XML document may have; a label can."""

_FOUND = {"fail": "failure", "inconclusive": "error"}


def junit_xml(report: GateReport) -> str:
    """Return the document: failed checks as failures, inconclusive ones as errors.

    A check that warns passes, with the warning as its output; a skipped one says why.
    """
    statuses = [check.status for check in report.checks]
    counts = {
        "tests": len(statuses),
        "failures": statuses.count("fail"),
        "errors": statuses.count("inconclusive"),
        "skipped": statuses.count("skipped"),
    }
    attributes = {name: str(count) for name, count in counts.items()}
    root = ElementTree.Element("testsuites", {"name": "sourcetrace", **attributes})
    suite = ElementTree.SubElement(root, "testsuite", {"name": "gate", **attributes, "time": "0"})
    for check in report.checks:
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


def _clean(text: str) -> str:
    return _FORBIDDEN.sub("\ufffd", text)
