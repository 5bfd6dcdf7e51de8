"""What changed since the audit before, in sentences."""

from sourcetrace.audit.comparison.summary import Comparison, CurvatureDrift, DataDrift
from sourcetrace.formats import MISSING, format_count, format_noun, format_number

FIRST = "No earlier audit of this task and model is kept: there is none to compare this one with."

_HOW = {
    "relabelled": "relabelled",
    "edited": "edited",
    "removed": "removed",
    "added": "just added",
    "unchanged": "without a change",
}


def format_moment(at: str) -> str:
    """Return '2026-11-26T15:38:13+00:00' as '2026-11-26 15:38 UTC'."""
    return f"{at[:10]} {at[11:16]} UTC"


def format_correlation(value: float | None) -> str:
    """Return a correlation with two decimals; only an exact 1 reads 1.00."""
    if value is None:
        return MISSING
    text = f"{min(value, 0.99) if value < 1 else value:.2f}"
    return text.replace("-", "−")


def changes_sentence(found: Comparison) -> str:
    """Return the one sentence that an on-call engineer reads."""
    if found.previous_at is None:
        return FIRST
    suspects = found.suspects
    parts = [
        format_noun(suspects.new, "new suspect") + _by(suspects.new_by, leave="unchanged"),
        f"{format_count(suspects.resolved)} resolved" + _by(suspects.resolved_by),
        f"{format_count(suspects.persisting)} persisting",
    ]
    correlation = found.scores.rank_correlation
    scores = (
        f"the scores’ rank correlation is {format_correlation(correlation)}"
        if correlation is not None
        else f"{format_noun(found.scores.examples, 'unchanged example')} are too few or too alike "
        "to compare the scores’ order"
    )
    return f"Since the audit of {format_moment(found.previous_at)}: {', '.join(parts)}; {scores}."


def change_sentences(found: Comparison) -> list[str]:
    """Return what else a reader should know before reading numbers into it."""
    if found.previous_at is None:
        return []
    sentences = [_data_sentence(found.data), _queries_sentence(found.data)]
    if found.previous_method != found.method:
        sentences.append(
            f"The method was {found.previous_method} and is {found.method} now: the scores differ "
            "for that reason already."
        )
    if found.data.matched_by == "id":
        sentences.append(
            "Examples are known again by their id alone, because what one of the audits read of "
            "them has no stable content: an example exchanged under its id is not noticed."
        )
    sentences.append(_curvature_sentence(found.curvature))
    if found.suspects.new and found.suspects.resolved:
        sentences.append(
            "Suspects are the share report.check_share of all examples at most: where some are "
            "resolved, others move up. Look at how far a new one’s harm rose."
        )
    return sentences


def _by(counts: dict[str, int], *, leave: str = "") -> str:
    """Return ' (25 relabelled, 5 removed)'; nothing where there is nothing to tell."""
    told = [
        f"{format_count(counts[change])} {words}"
        for change, words in _HOW.items()
        if counts.get(change) and change != leave
    ]
    return f" ({', '.join(told)})" if told else ""


def _data_sentence(data: DataDrift) -> str:
    kinds = (
        (data.added, "added"),
        (data.removed, "removed"),
        (data.relabelled, "relabelled"),
        (data.edited, "edited under the same id"),
        (data.renamed, "under another id"),
        (data.reordered, "at another place"),
    )
    told = [f"{format_count(count)} {words}" for count, words in kinds if count]
    if told:
        return f"Training data: {', '.join(told)}."
    if data.training_same is False:
        return (
            "The training data’s digest changed, though every example’s inputs and label are what "
            "they were: something else in the examples did."
        )
    if data.training_same is None:
        return "The training data has the same ids and labels; its contents cannot be compared."
    return "The training data is the same."


def _queries_sentence(data: DataDrift) -> str:
    if data.queries_same is None:
        return "Whether the queries are the same is not known: their contents cannot be compared."
    if data.queries_same:
        return "The queries are the same."
    return "The queries are other ones: harm to these is not harm to those."


def _curvature_sentence(drift: CurvatureDrift) -> str:
    if not drift.layers:
        return "The two audits have no layer’s curvature in common."
    text = ""
    if drift.segments != drift.segments_before:
        text = (
            f"Training was cut into {format_noun(drift.segments_before, 'segment')} before and "
            f"{drift.segments} now; the last ones are compared. "
        )
    first = drift.layers[0]
    big = sum(layer.is_big for layer in drift.layers)
    text += (
        f"Curvature: {format_count(big) if big else 'none'} of "
        f"{format_noun(len(drift.layers), 'spectrum', 'spectra')} changed by a factor of two or "
        "more"
    )
    if first.distance:
        text += (
            f"; layer {first.layer} in segment {first.segment} moved most, its eigenvalues by a "
            f"factor of {format_number(10**first.distance)} on average"
        )
    return text + "."
