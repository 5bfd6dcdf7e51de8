"""What the tables say, in numbers and sentences: the page's words come from here."""

import math
from dataclasses import dataclass

import polars as pl

from sourcetrace.formats import MISSING, format_count, format_noun, format_number, format_share

# The share of a ranking that "the top" means, here and in the comparison with planted errors.
TOP_SHARE = 0.08

METHODS = {
    "source": (
        "Source",
        "Bae et al. 2024",
        "follows an example's effect through the segments of training, each with its own "
        "curvature (Bae et al. 2024, arXiv 2405.12186)",
    ),
    "scaled_source": (
        "Scaled Source",
        "Bae et al. 2024, rescaled",
        "follows an example's effect through the segments of training (Source, Bae et al. 2024, "
        "arXiv 2405.12186), each segment's curvature multiplied by the factor that it is measured "
        "to be too small by",
    ),
    "fast_source": (
        "Fast-Source",
        "Bae et al. 2024",
        "is Source with gradients and curvature taken once a segment, at the mean of its weights "
        "(Bae et al. 2024, arXiv 2405.12186)",
    ),
    "astra_source": (
        "ASTRA-Source",
        "arXiv 2507.14740",
        "is Source with each segment's system solved with the exact Gauss–Newton matrix, at the "
        "cost of a forward pass and, for each query, two backward passes of a sample of the "
        "training data in every iteration; self-influence stays EK-FAC's (arXiv 2507.14740)",
    ),
    "influence": (
        "Influence function",
        "final checkpoint, EK-FAC",
        "looks at the final checkpoint alone, with damped EK-FAC curvature",
    ),
    "astra_influence": (
        "ASTRA influence",
        "final checkpoint, exact curvature",
        "looks at the final checkpoint alone and solves with its damped exact Gauss–Newton "
        "matrix, at the cost of a forward pass and, for each query, two backward passes of a "
        "sample of the training data in every iteration; self-influence stays EK-FAC's "
        "(arXiv 2507.14740)",
    ),
    "trak": (
        "TRAK",
        "Park et al. 2023",
        "compares randomly projected gradients at the final checkpoint, whitened by those of the "
        "training data; its scores rank examples (Park et al. 2023, arXiv 2303.14186)",
    ),
    "tracin": (
        "TracIn",
        "gradients alone",
        "adds products of gradients over the checkpoints, weighted by learning rate and without "
        "curvature",
    ),
    "gradient_similarity": (
        "Gradient similarity",
        "final checkpoint",
        "compares gradients at the final checkpoint; its scores rank examples, but their size is "
        "not a predicted change",
    ),
    "representation_similarity": (
        "Representation similarity",
        "final checkpoint",
        "compares what the last attributed layer is given, without loss or labels; its scores "
        "rank examples, and self-influence says nothing",
    ),
}


@dataclass(frozen=True)
class KeyFigure:
    """A number of the heading, with what it counts and a remark."""

    label: str
    value: str
    remark: str = ""


@dataclass(frozen=True)
class Overlap:
    """How far two rankings of the same examples name the same ones.

    Attributes:
        top_count: Examples in each top.
        shared: Examples in both.
        expected: Shared by two random rankings, on average.
        suspects: Examples with a suggested action.
        suspects_missed: Of these, the ones outside the second ranking's top.
    """

    top_count: int
    shared: int
    expected: float
    suspects: int
    suspects_missed: int


def is_suspect() -> pl.Expr:
    """Return the condition for an example that a person should look at."""
    return pl.col("suggested_action") != "keep"


def unstable_suspects(review_list: pl.DataFrame) -> pl.DataFrame:
    """Return the suspects whose harm may as well be a help, as far as its error says."""
    return review_list.filter(is_suspect(), ~pl.col("sign_stable"))


def unstable_sentence(review_list: pl.DataFrame) -> str:
    """Return what ± is, and for how many suspects the harm is too uncertain to act on."""
    if not review_list["harm_error"].gt(0).any():
        return (
            "With one query and one checkpoint a segment there is no spread to tell an error of "
            "the harm from."
        )
    suspects = review_list.filter(is_suspect()).height
    unstable = unstable_suspects(review_list).height
    text = "± is the standard error of the harm over checkpoints and queries."
    if not suspects:
        return text
    return (
        f"{text} For {format_count(unstable) if unstable else 'none'} of the "
        f"{format_noun(suspects, 'suspect')} the harm is within two errors of zero: too uncertain "
        "to act on without a look."
    )


def interpolated_sentence(checkpoint_manifest: pl.DataFrame) -> str:
    """Return at which checkpoints the learning rate is partly a guess; nothing, if at none."""
    guessed = checkpoint_manifest.sort("step").filter(learning_rate_source="interpolated")
    if guessed.is_empty():
        return ""
    return (
        f"The learning rate of some steps is not recorded, at "
        f"{format_count(guessed.height)} of {format_noun(checkpoint_manifest.height, 'checkpoint')}"
        ": a straight line between the rates of neighbouring checkpoints stands for it, and the "
        "step mass there is as good as that guess. Save learning_rates in the checkpoints, or "
        "set checkpoints.learning_rates to a CSV file."
    )


def task_label(task_name: str) -> str:
    """Return the class's own name of an import path."""
    return task_name.rsplit(".", 1)[-1] or task_name


def describe_method(method: str) -> tuple[str, str, str]:
    """Return a method's name, a remark and what it does; an unknown one keeps its name."""
    return METHODS.get(method, (method, "", ""))


def result_sentence(review_list: pl.DataFrame) -> str:
    """Return the one sentence that an on-call engineer reads."""
    examples = review_list.height
    relabel = review_list.filter(pl.col("suggested_action") == "relabel").height
    check = review_list.filter(pl.col("suggested_action") == "check").height
    if relabel + check == 0:
        return (
            f"None of the {format_noun(examples, 'training example')} stands out: "
            "no action is suggested."
        )
    parts = []
    if relabel:
        parts.append(
            f"{format_count(relabel)} {'looks' if relabel == 1 else 'look'} mislabelled"
            " (suggested: relabel)"
        )
    if check:
        parts.append(
            f"{format_count(check)} {'needs' if check == 1 else 'need'} a closer look"
            " (suggested: check)"
        )
    return (
        f"{format_count(relabel + check)} of {format_noun(examples, 'training example')} should "
        f"be looked at first: {', '.join(parts)}."
    )


def key_figures(
    method: str,
    review_list: pl.DataFrame,
    checkpoint_manifest: pl.DataFrame,
    query_signals: pl.DataFrame,
) -> list[KeyFigure]:
    """Return the figures of the heading."""
    suspects = review_list.filter(is_suspect()).height
    losses = query_signals.get_column("loss") if query_signals.height else pl.Series([math.nan])
    stages = checkpoint_manifest.get_column("stage").n_unique() if checkpoint_manifest.height else 0
    runs = run_count(checkpoint_manifest)
    return [
        KeyFigure(
            "Training examples",
            format_count(review_list.height),
            f"{format_share(suspects / review_list.height)} suspect",
        ),
        KeyFigure(
            "Queries",
            format_count(query_signals.height),
            f"mean loss {format_number(float(pl.Series(losses).to_numpy().mean()))}",
        ),
        KeyFigure(
            "Checkpoints",
            format_count(checkpoint_manifest.height),
            (f"{format_noun(runs, 'training run')}, " if runs > 1 else "")
            + format_noun(stages, "stage"),
        ),
        KeyFigure("Segments", format_count(segment_count(checkpoint_manifest)), "of training"),
        KeyFigure(
            "Parameters attributed",
            format_share(attributed_share(checkpoint_manifest)),
            "of the model's values",
        ),
        KeyFigure("Method", *describe_method(method)[:2]),
    ]


def segment_count(checkpoint_manifest: pl.DataFrame) -> int:
    """Return how many segments the checkpoints lie in."""
    return int(checkpoint_manifest.get_column("segment").n_unique())


def run_count(checkpoint_manifest: pl.DataFrame) -> int:
    """Return how many training runs the checkpoints are of."""
    return int(checkpoint_manifest.get_column("run").n_unique())


def attributed_share(checkpoint_manifest: pl.DataFrame) -> float | None:
    """Return the share at the final checkpoint."""
    if checkpoint_manifest.is_empty():
        return None
    return float(checkpoint_manifest.sort("segment", "step").get_column("attributed_share")[-1])


def loss_overlap(review_list: pl.DataFrame) -> Overlap:
    """Compare the review list with a ranking by plain loss, highest first.

    Equal losses keep the review list's order, so that the answer is the same every time.
    """
    top_count = math.ceil(TOP_SHARE * review_list.height)
    by_loss = review_list.sort(["loss", "rank"], descending=[True, False]).with_row_index("place")
    in_both = (pl.col("rank") <= top_count) & (pl.col("place") < top_count)
    missed = is_suspect() & (pl.col("place") >= top_count)
    return Overlap(
        top_count=top_count,
        shared=by_loss.filter(in_both).height,
        expected=top_count**2 / review_list.height,
        suspects=by_loss.filter(is_suspect()).height,
        suspects_missed=by_loss.filter(missed).height,
    )


def overlap_sentences(overlap: Overlap) -> str:
    """Return what plain loss, which costs nothing, would have said instead."""
    count = overlap.top_count
    top = "example" if count == 1 else f"{format_count(count)} examples"
    losses = (
        "the highest loss" if count == 1 else f"one of the {format_count(count)} highest losses"
    )
    text = (
        f"Of the first {top} of this list (top {format_share(TOP_SHARE)}), "
        f"{format_count(overlap.shared)} ({format_share(overlap.shared / count)}) also "
        f"{'has' if overlap.shared == 1 else 'have'} {losses}; "
        f"two unrelated rankings would share about {format_number(overlap.expected)}."
    )
    if overlap.suspects:
        text += (
            f" Sorting by loss and stopping there would have missed "
            f"{format_count(overlap.suspects_missed)} of the "
            f"{format_noun(overlap.suspects, 'suspect')}."
        )
    return text


def unattributed_sentence(
    unattributed_parameters: pl.DataFrame, checkpoint_manifest: pl.DataFrame
) -> str:
    """Return how much of the model the scores do not see."""
    count = unattributed_parameters.height
    if count == 0:
        return "Every parameter of the model carries attribution."
    size = int(unattributed_parameters.get_column("size").sum())
    share = attributed_share(checkpoint_manifest)
    left = MISSING if share is None else format_share(1 - share)
    return (
        f"{format_noun(count, 'parameter')} with {format_noun(size, 'value')}, {left} of the "
        f"model, {'carries' if count == 1 else 'carry'} no attribution: what training examples "
        "did to them is not in any score."
    )
