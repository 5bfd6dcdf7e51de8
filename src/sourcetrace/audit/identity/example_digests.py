"""What makes a training example the same one in the next audit: a digest of its inputs.

The label is digested apart, so that an example whose label was corrected is still that example.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import polars as pl

from sourcetrace.audit.identity.data_digest import covers_examples, data_digest, value_digest

LABEL_KEYS: Final = frozenset({"label", "labels", "target", "targets"})
"""Keys of an example that is a mapping under which its label is looked for."""

_LENGTH: Final = 32
_PAIR: Final = 2


def digest_examples(
    examples: Any,
    table: pl.DataFrame,
    *,
    progress: Callable[[range], Iterable[int]] = iter,
    inputs_of: Callable[[Any], Any] | None = None,
    each: Callable[[Any], None] | None = None,
) -> tuple[str, pl.DataFrame]:
    """Return the data's digest and one for every example, from one reading.

    Args:
        examples: As `data_digest` takes them.
        table: As `data_digest` takes it.
        progress: As `data_digest` takes it.
        inputs_of: Takes an example and returns the part that stays when its label is corrected;
            by default what `split_label` finds.
        each: As `data_digest` takes it.

    Returns:
        The digest, and a table as `schemas.ExampleDigests`: without digests where the examples
        have no content to speak of.
    """
    inputs: list[str] = []
    targets: list[str | None] = []

    def add(item: Any) -> None:
        if each is not None:
            each(item)
        part, target = (inputs_of(item), None) if inputs_of else split_label(item)
        inputs.append(_shortened(part))
        targets.append(None if target is None else _shortened(target))

    digest = data_digest(examples, table, progress=progress, each=add)
    whole = covers_examples(digest)
    label = pl.col("label") if "label" in table.columns else pl.lit(None)
    return digest, table.select("example_id", label=label.cast(pl.String)).with_columns(
        pl.Series("input_digest", inputs if whole else [None] * table.height, dtype=pl.String),
        pl.Series("target_digest", targets if whole else [None] * table.height, dtype=pl.String),
    )


def split_label(item: Any) -> tuple[Any, Any]:
    """Return an example's inputs and its label, None where the label cannot be told apart.

    Of a pair, the first part is what the model is given (`TaskBase.forward` says so); of a
    mapping, the label is what stands under `LABEL_KEYS`.
    """
    if isinstance(item, list | tuple) and len(item) == _PAIR:
        return item[0], item[1]
    if isinstance(item, Mapping):
        target = {key: item[key] for key in item if key in LABEL_KEYS}
        rest = {key: item[key] for key in item if key not in LABEL_KEYS}
        return (rest, target) if target and rest else (item, None)
    return item, None


def _shortened(value: Any) -> str:
    return value_digest(value).hex()[:_LENGTH]
