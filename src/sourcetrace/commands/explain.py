"""`sourcetrace explain`: which training examples, and which of their tokens, made a query so."""

import sys
from pathlib import Path
from typing import Any

import click

from sourcetrace.commands.options import CONTEXT, ERROR, INTERRUPTED, env, verbose
from sourcetrace.commands.streams import stdout_as_stderr

_HELP = """Show the training examples that helped and harmed queries most, behind an audit.

\b
QUERY_ID is a name in the audit's query table. For others:
  --text "The film was" --completion " dull"    one of your own
  --file queries.jsonl                          a file of them
Both are made by the task, and scored by the curvature that the audit stored.

Run it in the project's folder, with the audit's --env and --params.
"""


@click.command(
    help=_HELP,
    context_settings=CONTEXT,
    epilog="Nothing of the audit is written, and nothing is told to MLflow. "
    "More: docs/reference/explain.md.",
)
@click.argument("query_id", nargs=-1)
@click.option("--text", help="A query's text, or what a completion completes.")
@click.option("--completion", help="What the model is to say behind the text.")
@click.option("--label", help="The label of the text, where the task has labels.")
@click.option(
    "--file",
    "source",
    type=click.Path(exists=True, path_type=Path),
    help="Queries of your own: .jsonl, .parquet, .csv and what else the task reads.",
)
@click.option(
    "--strongest",
    "-k",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    help="How many helpers, and harmers, of each query.",
)
@click.option(
    "--tokens/--no-tokens",
    default=None,
    help="Scores by segment, and by token where the task has texts; takes passes of the examples "
    "shown. By default where the task has texts.",
)
@click.option(
    "--html",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write a page of it to this file, too.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, and nothing else.")
@click.option("--params", multiple=True, metavar="KEY=VALUE", help="As the audit was given them.")
@env
@click.option(
    "--pipeline",
    default="explain",
    show_default=True,
    help="The pipeline that create_explain made, where a project has several audits.",
)
@verbose
def explain(
    query_id: tuple[str, ...],
    text: str | None,
    completion: str | None,
    label: str | None,
    source: Path | None,
    strongest: int,
    tokens: bool | None,
    html: Path | None,
    as_json: bool,
    **how: Any,
) -> None:
    """Explain the queries and print what was found."""
    if text is None and (completion is not None or label is not None):
        raise click.UsageError("--completion and --label are options of --text.")
    if bool(query_id) + (text is not None) + (source is not None) != 1:
        raise click.UsageError("Expected one of: names of queries, --text, or --file.")
    given = {"text": text, "completion": completion, "label": label}
    typed = {name: value for name, value in given.items() if value is not None}
    try:
        with stdout_as_stderr():
            # Here: the help needs neither Kedro nor MLflow nor torch.
            from sourcetrace.commands.explain_run import explained
            from sourcetrace.reporting.explanation import Asked

            own = None if query_id else str(source) if source else typed
            found = explained(
                Asked(query_id, own, strongest, tokens, pictures=html is not None), **how
            )
    except (KeyboardInterrupt, click.Abort):
        click.echo("Interrupted.", err=True)
        sys.exit(INTERRUPTED)
    if found is None:
        sys.exit(ERROR)
    if html is not None:
        from sourcetrace.reporting.queries.pages import explanation_page

        try:
            html.parent.mkdir(parents=True, exist_ok=True)
            html.write_text(explanation_page(found), encoding="utf-8")
        except OSError as error:
            said = f"--html {html} cannot be written: {error.strerror}. Name another file."
            raise click.UsageError(said) from error
    if as_json:
        click.echo(found.model_dump_json(indent=2))
        return
    from sourcetrace.commands.explain_report import print_explanations

    print_explanations(found, page=html)
