"""What the commands have in common: how help is asked for, options, and exit codes."""

from collections.abc import Mapping
from typing import Any

import click

CONTEXT: dict[str, Any] = {"help_option_names": ["-h", "--help"]}

env = click.option(
    "--env", metavar="NAME", help="Configuration environment: a folder in conf/, such as local."
)

verbose = click.option("--verbose", is_flag=True, help="Show the traceback of an error.")

PASSED, FAILED, ERROR, INCONCLUSIVE, INTERRUPTED = 0, 1, 2, 3, 130

EXIT_CODES: Mapping[str, int] = {
    "pass": PASSED,
    "warn": PASSED,
    "fail": FAILED,
    "inconclusive": INCONCLUSIVE,
}
"""Stable: schedulers depend on them. 2 is an error: there is no verdict."""
