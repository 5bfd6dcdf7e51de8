"""`sourcetrace adopt`: what a Kedro project needs to run an audit beside its own pipelines."""

import re
from pathlib import Path

import click
from pydantic import ValidationError

from sourcetrace.commands.options import CONTEXT
from sourcetrace.parameters import TaskParameters
from sourcetrace.starter import FILES, starter_file

_HELP = """Write the catalog and the parameters of an audit under NAMESPACE into conf/base.

Run it in the folder of the project that is to run the audit. Files that are there are kept:
nothing is overwritten.
"""


@click.command(help=_HELP, context_settings=CONTEXT)
@click.argument("namespace")
@click.option(
    "--task", required=True, metavar="CLASS", help="Import path of your task: churn.task.ChurnTask."
)
def adopt(namespace: str, task: str) -> None:
    """Write both files, or neither."""
    if not re.fullmatch(r"[A-Za-z_]\w*", namespace):
        raise click.BadParameter(
            f"{namespace!r} is no namespace: expected letters, digits and underscores, as in "
            "churn_audit.",
            param_hint="NAMESPACE",
        )
    try:
        TaskParameters.model_validate({"class": task})
    except ValidationError as error:
        raise click.BadParameter(
            f"{task!r} is no import path of a class: expected package.module.Class.",
            param_hint="--task",
        ) from error
    folder = Path("conf/base")
    if not folder.is_dir():
        raise click.ClickException(
            f"{Path.cwd()} holds no folder conf/base. Run this command in the project's folder."
        )
    files = {name: folder / f"{name}_{namespace}.yml" for name in FILES}
    for path in files.values():
        if path.exists():
            raise click.ClickException(f"{path} is there already: remove it first.")
    for name, path in files.items():
        path.write_text(starter_file(name, namespace=namespace, task=task), encoding="utf-8")
        click.echo(f"Wrote {path}")
    click.echo("docs/reference/reuse.md says what is next: settings.py and pipeline_registry.py.")
