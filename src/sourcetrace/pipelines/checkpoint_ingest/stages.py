"""The stages each training example belongs to: one by its name, or several in a list."""

from collections.abc import Sequence

import polars as pl

from sourcetrace.errors import InputError

_NAMED = 5
"""Offending values listed in a message."""


def stage_lists(given: pl.Series, names: Sequence[str]) -> pl.Series:
    """Return the stages of every example as a list, in the order of training.

    Args:
        given: A name, or a list of names, an example.
        names: The stages of the checkpoints, in the order of training.

    Raises:
        InputError: If an example belongs to no stage, to one twice, or to one that the
            checkpoints do not have.
    """
    lists = _as_lists(given)
    examples = pl.DataFrame({"stages": lists})
    empty = examples.filter(pl.col("stages").list.len().fill_null(0) == 0)
    if empty.height:
        raise InputError(
            f"train_table() puts {empty.height} examples into no stage: their 'stage' is empty. "
            f"Give each a stage of the checkpoints ({', '.join(names)}), or leave examples out "
            "that no stage trained on."
        )
    unknown = examples.filter(
        pl.col("stages")
        .list.eval(~pl.element().is_in(list(names)).fill_null(value=False))
        .list.any()
    )
    if unknown.height:
        found = unknown["stages"].explode().unique()
        strange = found.filter(~found.is_in(list(names)).fill_null(value=False)).sort()
        raise InputError(
            f"train_table() puts {unknown.height} examples into stage "
            f"{', '.join(map(repr, strange.to_list()[:_NAMED]))}, but the checkpoints have "
            f"{', '.join(names)}. Use the same names in both."
        )
    repeated = examples.filter(pl.col("stages").list.n_unique() < pl.col("stages").list.len())
    if repeated.height:
        raise InputError(
            f"train_table() puts {repeated.height} examples into a stage twice, such as "
            f"{repeated['stages'][0].to_list()}. Name every stage once: how often a stage visits "
            "its examples is in its steps."
        )
    # The order of training, whatever order they were given in.
    place = {name: index for index, name in enumerate(names)}
    ordered = examples.select(
        pl.col("stages")
        .list.eval(pl.element().sort_by(pl.element().replace_strict(place, return_dtype=pl.Int64)))
        .alias("stage")
    )
    return ordered["stage"]


def _as_lists(given: pl.Series) -> pl.Series:
    if isinstance(given.dtype, pl.List | pl.Array):
        return given.cast(pl.List(pl.String))
    names = given.cast(pl.String).alias("name").to_frame()
    return names.select(pl.concat_list("name").list.drop_nulls())["name"]
