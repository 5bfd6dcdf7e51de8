"""Run the project as `python -m sourcetrace` or `sourcetrace`.

`sourcetrace audit …` is an audit with exit codes, and so on as `commands` names them; anything
else is `kedro run …`.
"""

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from sourcetrace.commands import COMMANDS


def main(*args: Any, **kwargs: Any) -> Any:
    """Run a command of this package, or `kedro run` of this project."""
    given = list(args[0]) if args else sys.argv[1:]
    if given and given[0] in COMMANDS:
        module, name = COMMANDS[given[0]].split(":")
        command = getattr(import_module(module), name)
        return command(given[1:], prog_name=f"sourcetrace {given[0]}")
    from kedro.framework.cli.utils import find_run_command
    from kedro.framework.project import configure_project

    package_name = Path(__file__).parent.name
    configure_project(package_name)
    kwargs["standalone_mode"] = not hasattr(sys, "ps1")
    return find_run_command(package_name)(*args, **kwargs)


if __name__ == "__main__":
    main()
