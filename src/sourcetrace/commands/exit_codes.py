"""How `sourcetrace audit` came out, as its exit code."""

from collections.abc import Mapping

PASSED, FAILED, ERROR, INCONCLUSIVE, INTERRUPTED = 0, 1, 2, 3, 130

EXIT_CODES: Mapping[str, int] = {
    "pass": PASSED,
    "warn": PASSED,
    "fail": FAILED,
    "inconclusive": INCONCLUSIVE,
}
"""Stable: schedulers depend on them. 2 is an error: there is no verdict."""
