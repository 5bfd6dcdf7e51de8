"""The card of an audit in a model version's description, in Markdown.

It stands between two marker comments; what people wrote around it is theirs.
"""

import re

from sourcetrace.formats import format_count, format_noun, format_share
from sourcetrace.reporting.markdown import OUTCOME_MEANING, escape_markdown, suspects_sentence
from sourcetrace.tracking.lineage.record import AuditRecord, DataRecord

OPENING = "<!-- sourcetrace:audit -->"
CLOSING = "<!-- /sourcetrace:audit -->"

_LONGEST_DESCRIPTION = 5000
"""Characters of a description that MLflow's databases keep."""

_FINDINGS = 5

# From an opening to the first closing, with no further opening between: a marker that lost its
# partner takes no text of a person with it.
_CARD = re.compile(
    f"{re.escape(OPENING)}(?:(?!{re.escape(OPENING)}).)*?{re.escape(CLOSING)}", re.DOTALL
)

_MATCHES = {
    True: "the data that this version was trained on",
    False: "**not the data that this version was trained on**",
    None: "not known what this version was trained on",
}


def render_card(
    record: AuditRecord, *, status: str, data_matches: bool | None, experiment_id: str
) -> str:
    """Return the card with its markers.

    Its last line alone, when and in which run, differs between audits of the same inputs.

    Args:
        record: The audit.
        status: What it ended as, the comparison of the training data included.
        data_matches: Whether the audited training data trained this version; None if unknown.
        experiment_id: Of the run, for the link.
    """
    rows = [
        ("Trust", escape_markdown(f"{record.trust_status}: {record.trust_text}")),
        ("Training data", f"{_data(record.training_data)}: {_MATCHES[data_matches]}"),
        ("Queries", _data(record.query_data)),
        ("Checkpoints", _checkpoints(record)),
        ("Attributed", f"{format_share(record.attributed_share)} of the parameters"),
        ("Method", f"`{record.method}`"),
    ]
    if record.report_sha256:
        page = f"`audit/cleaning_report.html` of the run, SHA-256 `{record.report_sha256[:16]}…`"
        rows.append(("Report", page))
    findings = list(record.findings)
    if data_matches is False:
        findings.insert(
            0,
            "The training data was exchanged after the training: the audit says nothing of what "
            "made this version behave as it does.",
        )
    lines = [
        OPENING,
        f"### Audit: {status} ({OUTCOME_MEANING[status]})",
        "",
        suspects_sentence(
            relabel=record.relabel,
            check=record.check,
            training_examples=record.training_examples,
        ),
        "",
        *(["#### Found", ""] if findings else []),
        *[f"- {escape_markdown(text)}" for text in findings[:_FINDINGS]],
        *([f"- … and {len(findings) - _FINDINGS} more"] if len(findings) > _FINDINGS else []),
        *(["", "#### Audited", ""] if findings else []),
        # No table: MLflow's page sets its columns without a space between them.
        *[f"- **{name}**: {text}" for name, text in rows],
        "",
        _last_line(record, experiment_id),
        CLOSING,
    ]
    return "\n".join(lines)


def replace_card(description: str | None, card: str) -> str | None:
    """Return the description with this card in place of an earlier one, or behind the text.

    Where both do not fit into a description, the card is cut to its heading and its last line;
    None if not even these fit: the text stays as it is.
    """
    text = description or ""
    for version in (card, _short(card)):
        replaced = _put(text, version)
        if len(replaced) <= _LONGEST_DESCRIPTION:
            return replaced
    return None


def _put(text: str, card: str) -> str:
    if not _CARD.search(text):
        return f"{text}\n\n{card}" if text else card
    given = iter([card])
    # A card that somebody copied would go on claiming what it says: only one stays.
    return _CARD.sub(lambda _: next(given, ""), text)


def _short(card: str) -> str:
    _, heading, *_, last, closing = card.split("\n")
    return "\n".join([OPENING, heading, "", last, closing])


def _last_line(record: AuditRecord, experiment_id: str) -> str:
    run = f"[its run](#/experiments/{experiment_id}/runs/{record.run_id})"
    return f"Audited {record.at.replace('T', ' ').replace('+00:00', ' UTC')} in {run}."


def _data(data: DataRecord | None) -> str:
    return f"{format_count(data.rows)}, `{data.digest}`" if data else "no digest"


def _checkpoints(record: AuditRecord) -> str:
    if not record.checkpoints:
        return "none"
    steps = [one.step for one in record.checkpoints]
    runs = len({one.run for one in record.checkpoints})
    of_runs = f" of {format_noun(runs, 'run')}" if runs > 1 else ""
    return f"{len(steps)}{of_runs}, steps {min(steps):,} to {max(steps):,}"
