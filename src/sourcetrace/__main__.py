"""Run the project as `python -m sourcetrace` or `sourcetrace`.

`sourcetrace audit …` is an audit with exit codes; anything else is `kedro run …`.
"""

import sys
from pathlib import Path
from typing import Any

from sourcetrace.command import audit


def main(*args: Any, **kwargs: Any) -> Any:
    """Run `audit` of this package, or `kedro run` of this project."""
    given = list(args[0]) if args else sys.argv[1:]
    if given[:1] == ["audit"]:
        return audit(given[1:], prog_name="sourcetrace audit")
    from kedro.framework.cli.utils import find_run_command
    from kedro.framework.project import configure_project

    package_name = Path(__file__).parent.name
    configure_project(package_name)
    kwargs["standalone_mode"] = not hasattr(sys, "ps1")
    return find_run_command(package_name)(*args, **kwargs)


if __name__ == "__main__":
    main()
