"""`sourcetrace audit`: an audit for schedulers, whose exit code says how it came out."""

import json
import sys
from contextlib import nullcontext
from pathlib import Path

import click

from sourcetrace.commands.options import CONTEXT, INTERRUPTED, env, verbose
from sourcetrace.commands.streams import stdout_as_stderr
from sourcetrace.work.ranks import Rank

_HELP = """Audit the model of the project in this folder and judge the result.

\b
Exit codes:
  0  the gate passed, perhaps with warnings
  1  the gate failed
  2  an error: there is no verdict
  3  inconclusive: the scores are not trusted enough for a verdict

Run it in the project's folder, the one that holds conf/.
"""


@click.command(
    help=_HELP,
    context_settings=CONTEXT,
    epilog="Everything is written before the exit code is decided. Thresholds: "
    "conf/base/parameters_gate.yml. What to do about each outcome: docs/guide/operating_it.md.",
)
@click.option(
    "--params",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change a parameter for this run: attribution.method=influence. Several times, or "
    "separated by commas.",
)
@click.option(
    "--params-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The same from a YAML file, nested as in conf/, for values with commas; --params come "
    "before it.",
)
@env
@click.option(
    "--pipelines",
    default="audit",
    show_default=True,
    help="Which to run, separated by commas, one after the other; the last verdict counts. "
    "`audit,verification` trains the model again before it is final.",
)
@click.option(
    "--output",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="json: print gate.json, and nothing else, on standard output; with --pending a list of "
    "the versions.",
)
@verbose
@click.option(
    "--pending",
    is_flag=True,
    help="Audit every version of the models in tracking.pending that needs it, one after the "
    "other; the worst outcome counts.",
)
@click.option("--dry-run", is_flag=True, help="With --pending: say what would be audited and end.")
@click.option("--force", is_flag=True, help="With --pending: audit versions that need none, too.")
def audit(
    params: tuple[str, ...],
    params_file: Path | None,
    env: str | None,
    pipelines: str,
    output: str,
    verbose: bool,
    pending: bool,
    dry_run: bool,
    force: bool,
) -> None:
    """Run pipelines, judge, and exit with the code of the verdict."""
    if (dry_run or force) and not pending:
        raise click.UsageError("--dry-run and --force are options of --pending.")
    if pending and Rank.here().size > 1:
        raise click.UsageError(
            "--pending is one process, which audits one version after the other. Start "
            "it once, with launch.processes for each audit."
        )
    try:
        with stdout_as_stderr() if output == "json" else nullcontext():
            # Here: where Kedro finds no logging configuration, it says so on standard output when
            # it is imported; and the help needs neither Kedro nor MLflow nor torch.
            from sourcetrace.commands.audit_run import run_and_tell

            result, code = run_and_tell(
                [name.strip() for name in pipelines.split(",") if name.strip()],
                typed=["--params", ",".join(params)] if params else [],
                params_file=params_file,
                env=env,
                pending={"dry_run": dry_run, "force": force} if pending else None,
                verbose=verbose,
            )
    except (KeyboardInterrupt, click.Abort):
        click.echo("Interrupted.", err=True)
        sys.exit(INTERRUPTED)
    if output == "json" and result is not None:
        click.echo(json.dumps(result, indent=2, ensure_ascii=False))
    sys.exit(code)
