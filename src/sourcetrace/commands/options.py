"""What the commands have in common: how help is asked for, and options that mean the same."""

from typing import Any

import click

CONTEXT: dict[str, Any] = {"help_option_names": ["-h", "--help"]}

env = click.option(
    "--env", metavar="NAME", help="Configuration environment: a folder in conf/, such as local."
)

verbose = click.option("--verbose", is_flag=True, help="Show the traceback of an error.")
