"""The Kedro project in the current folder: this one, or one that has adopted the audit."""

from pathlib import Path

import click
from kedro.framework.project import configure_project
from kedro.framework.startup import bootstrap_project
from kedro.utils import is_kedro_project

_PACKAGE = "sourcetrace"


def configure_project_here() -> str:
    """Configure Kedro for the project in this folder, and return the name of its package.

    Raises:
        click.ClickException: If there is none.
    """
    here = Path.cwd()
    if not Path("conf").is_dir():
        raise click.ClickException(
            f"{here} holds no folder conf. Run this command in the project's folder."
        )
    if is_kedro_project(here):
        package: str = bootstrap_project(here).package_name
        return package
    # Installed, without the source: a folder with conf/ is enough.
    configure_project(_PACKAGE)
    return _PACKAGE
