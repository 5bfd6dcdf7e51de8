"""What the tables say, in numbers and sentences: the page's words come from here."""

import math

import polars as pl

from sourcetrace.core.plan.methods import METHODS
from sourcetrace.formats import format_count, format_noun, format_number, format_share
from sourcetrace.reporting.records import AuditSummary, GroundTruth
from sourcetrace.schemas.review import is_suspect

_LAYERS_NAMED = 5


def describe_method(method: str) -> tuple[str, str, str]:
    """Return a method's name, a remark and what it does; an unknown one keeps its name."""
    found = METHODS.get(method)
    return (found.title, found.remark, found.description) if found else (method, "", "")


def result_sentence(summary: AuditSummary) -> str:
    """Return the one sentence that an on-call engineer reads."""
    examples = format_noun(summary.training_examples, "training example")
    if summary.says_nothing:
        return (
            f"The scores of all {examples} are 0: nothing can be said of any. The loss has no "
            "gradient where the model was saved, as that of a constant or a dead network has "
            "none; look at the model and its checkpoints first."
        )
    if not summary.suspect_count:
        return f"None of the {examples} stands out: no action is suggested."
    parts = []
    if relabel := summary.actions["relabel"]:
        parts.append(
            f"{format_count(relabel)} {'looks' if relabel == 1 else 'look'} mislabelled"
            " (suggested: relabel)"
        )
    if check := summary.actions["check"]:
        parts.append(
            f"{format_count(check)} {'needs' if check == 1 else 'need'} a closer look"
            " (suggested: check)"
        )
    return (
        f"{format_count(summary.suspect_count)} of {examples} should be looked at first: "
        f"{', '.join(parts)}."
    )


def uncertainty_sentence(summary: AuditSummary, review_list: pl.DataFrame) -> str:
    """Return what ± is, and for how many suspects the harm is too uncertain to act on."""
    if not review_list["harm_error"].gt(0).any():
        return (
            "With one query and one checkpoint a segment there is no spread to tell an error of "
            "the harm from."
        )
    text = "± is the standard error of the harm over checkpoints and queries."
    if not summary.suspect_count:
        return text
    return (
        f"{text} For {format_count(summary.unstable) if summary.unstable else 'none'} of the "
        f"{format_noun(summary.suspect_count, 'suspect')} the harm is within two errors of zero: "
        "too uncertain to act on without a look."
    )


def interpolated_sentence(checkpoint_manifest: pl.DataFrame) -> str:
    """Return at which checkpoints the learning rate is partly a guess; nothing, if at none."""
    guessed = checkpoint_manifest.filter(learning_rate_source="interpolated")
    if guessed.is_empty():
        return ""
    return (
        f"The learning rate of some steps is not recorded, at "
        f"{format_count(guessed.height)} of {format_noun(checkpoint_manifest.height, 'checkpoint')}"
        ": a straight line between the rates of neighbouring checkpoints stands for it, and the "
        "step mass there is as good as that guess. Save learning_rates in the checkpoints, or "
        "set checkpoints.learning_rates to a CSV file."
    )


def dead_layers_sentence(curvature_spectra: pl.DataFrame) -> str:
    """Return which layers no gradient reached, by `schemas.CurvatureSpectra`; nothing, if all."""
    segments = curvature_spectra["segment"].n_unique()
    dead = (
        curvature_spectra.filter(pl.col("trace") == 0)
        .group_by("layer", maintain_order=True)
        .agg(pl.col("segment").sort())
    )
    if dead.is_empty():
        return ""
    named = [
        layer
        if len(numbers) == segments
        else f"{layer} (in segment {', '.join(map(format_count, numbers))})"
        for layer, numbers in dead.head(_LAYERS_NAMED).iter_rows()
    ]
    rest = dead.height - len(named)
    return (
        f"No gradient reaches {format_noun(dead.height, 'layer')}: {', '.join(named)}"
        f"{f' and {format_count(rest)} more' if rest else ''}. What the data did there is in no "
        "score. Look for units that never fire, or outputs that the loss does not use."
    )


def key_figures(
    summary: AuditSummary, checkpoint_manifest: pl.DataFrame
) -> list[tuple[str, str, str]]:
    """Return the figures of the heading: what is counted, the number, a remark."""
    suspects = format_share(summary.suspect_count / summary.training_examples)
    stages = format_noun(checkpoint_manifest["stage"].n_unique(), "stage")
    if summary.runs > 1:
        stages = f"{format_noun(summary.runs, 'training run')}, {stages}"
    name, remark, _ = describe_method(summary.method)
    return [
        ("Training examples", format_count(summary.training_examples), f"{suspects} suspect"),
        (
            "Queries",
            format_count(summary.queries),
            f"mean loss {format_number(summary.mean_query_loss)}",
        ),
        ("Checkpoints", format_count(summary.checkpoints), stages),
        ("Segments", format_count(summary.segments), "of training"),
        ("Parameters attributed", format_share(summary.attributed_share), "of the model's values"),
        ("Method", name, remark),
    ]


def overlap_sentences(review_list: pl.DataFrame, *, top_share: float) -> str:
    """Return what plain loss, which costs nothing, would have said instead.

    Equal losses keep the review list's order, so that the answer is the same every time.

    Args:
        review_list: `schemas.ReviewList`.
        top_share: The share of a ranking that is looked at.
    """
    count = math.ceil(top_share * review_list.height)
    by_loss = review_list.sort(["loss", "rank"], descending=[True, False]).with_row_index("place")
    shared = by_loss.filter(pl.col("rank") <= count, pl.col("place") < count).height
    suspects = by_loss.filter(is_suspect())
    missed = suspects.filter(pl.col("place") >= count).height
    top = "example" if count == 1 else f"{format_count(count)} examples"
    losses = (
        "the highest loss" if count == 1 else f"one of the {format_count(count)} highest losses"
    )
    text = (
        f"Of the first {top} of this list (top {format_share(top_share)}), "
        f"{format_count(shared)} ({format_share(shared / count)}) also "
        f"{'has' if shared == 1 else 'have'} {losses}; "
        "two unrelated rankings would share about "
        f"{format_number(count**2 / review_list.height)}."
    )
    if suspects.height:
        text += (
            f" Sorting by loss and stopping there would have missed {format_count(missed)} of the "
            f"{format_noun(suspects.height, 'suspect')}."
        )
    return text


def unattributed_sentence(unattributed_parameters: pl.DataFrame, *, attributed_share: float) -> str:
    """Return how much of the model the scores do not see."""
    count = unattributed_parameters.height
    if count == 0:
        return "Every parameter of the model carries attribution."
    size = int(unattributed_parameters["size"].sum())
    return (
        f"{format_noun(count, 'parameter')} with {format_noun(size, 'value')}, "
        f"{format_share(1 - attributed_share)} of the "
        f"model, {'carries' if count == 1 else 'carry'} no attribution: what training examples "
        "did to them is not in any score."
    )


def ground_truth_sentence(truth: GroundTruth) -> str:
    """Return what was planted, and which ranking finds most of it."""
    planted = format_noun(truth.planted, "label error")
    text = f"{planted} {'was' if truth.planted == 1 else 'were'} planted before training."
    if not truth.rankings:
        return text
    found = [ranking.found for ranking in truth.rankings]
    best = truth.rankings[found.index(max(found))]
    alone = len(found) > 1 and found.count(best.found) == 1
    return (
        f"{text} “{best.name}” finds {format_count(best.found)} of them among its "
        f"first {format_noun(truth.planted, 'example')}"
        f"{', more than any other ranking here' if alone else ''}."
    )
