"""The section of a model card on its training data, in Markdown, to be put into the card.

Headings start one level down, so that it stands under the card's own title. It holds counts and
digests, and no row of the data.
"""

from jinja2 import Environment, PackageLoader

from sourcetrace.formats import format_count, format_noun, format_number, format_share
from sourcetrace.reporting.documents.facts import SOURCE_PAPER, AuditFacts
from sourcetrace.reporting.markdown import (
    OUTCOME_MEANING,
    code_span,
    escape_markdown,
    suspects_sentence,
)

_DATA_NAMES = {"training": "Training data", "queries": "Queries"}


def render_model_card(facts: AuditFacts) -> str:
    """Return the section; the same audit gives the same text."""
    result = facts.result
    return (
        _environment()
        .get_template("model_card.md.j2")
        .render(
            facts=facts,
            result=result,
            meaning=OUTCOME_MEANING[result.gate],
            suspects=suspects_sentence(
                relabel=result.actions["relabel"],
                check=result.actions["check"],
                training_examples=result.counts.training_examples,
            ),
            audited=_audited(facts),
            found=[check for check in facts.gate.checks if check.status != "pass"],
            interval=_interval(facts),
            paper=SOURCE_PAPER if result.method.endswith("source") else None,
        )
    )


def _audited(facts: AuditFacts) -> list[tuple[str, str]]:
    """Return the rows on what was audited; values are Markdown."""
    result = facts.result
    rows = [("Task", code_span(result.task))]
    if facts.model is not None:
        model = facts.model
        which = f"version {model.version}" if model.version else f"alias {model.alias}"
        rows.insert(0, ("Model", f"{code_span(model.name)}, {escape_markdown(which)}"))
    for name, data in result.data.items():
        rows.append(
            (
                _DATA_NAMES.get(name, name),
                f"{format_noun(data.rows, 'example')}, content digest {code_span(data.digest)}",
            )
        )
    steps = [checkpoint.step for checkpoint in result.checkpoints]
    of_runs = f" of {format_noun(result.counts.runs, 'run')}" if result.counts.runs > 1 else ""
    rows += [
        (
            "Checkpoints",
            f"{format_count(len(steps))}{of_runs}, steps {format_count(min(steps))} to "
            f"{format_count(max(steps))}; SHA-256 of each in `ml_bom.cdx.json`",
        ),
        ("Parameters attributed", format_share(facts.attributed_share)),
        ("Scores", f"SHA-256 {code_span(result.scores_digest)}"),
    ]
    return rows


def _interval(facts: AuditFacts) -> str | None:
    trust = facts.result.trust
    if trust.lds is None:
        return None
    if trust.lds_low is None or facts.trust_high is None:
        return format_number(trust.lds)
    low, high = format_number(trust.lds_low), format_number(facts.trust_high)
    return f"{format_number(trust.lds)}, 95 % interval {low} to {high}"


def _environment() -> Environment:
    environment = Environment(  # noqa: S701, Markdown: each value is escaped by its own filter
        loader=PackageLoader("sourcetrace.reporting"),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["md"] = escape_markdown
    environment.filters["code"] = code_span
    return environment
