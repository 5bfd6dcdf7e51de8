"""What passes tell of examples, as rows of tables."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import polars as pl
import torch

from sourcetrace.core.engine.results import BlockSignals
from sourcetrace.core.model.examples import Block, EvaluationPoint, Examples
from sourcetrace.pipelines.set_up.contents import Contents, contents_of, digest_contents
from sourcetrace.schemas.scores import ContentSketches, ExampleSignals
from sourcetrace.schemas.table import Table

TABLES: Final[Mapping[str, type[Table]]] = {
    "signals": ExampleSignals,
    "sketches": ContentSketches,
}
"""Of training examples: beginning of a file's name -> what its rows are held against."""


def sketch_rows(signals: BlockSignals, examples: Examples, side: str) -> list[pl.DataFrame]:
    """Return the rows of `content_sketches`, if sketches were taken."""
    if signals.sketch is None:
        return []
    # Halved, batches of any size give the same numbers but for the last of their bits.
    values = signals.sketch.half().float().cpu().numpy()
    names = [examples.ids[i] for i in signals.examples.tolist()]
    columns = {"side": [side] * len(names), "example_id": names, "sketch": values}
    return [pl.DataFrame(columns, schema=ContentSketches.columns())]


def signal_rows(signals: BlockSignals, examples: Examples, point: EvaluationPoint) -> pl.DataFrame:
    """Return a row an example."""
    index = signals.examples.tolist()
    nothing = [None] * len(index)
    norm = signals.gradient_norm
    return pl.DataFrame(
        {
            "example_id": [examples.ids[i] for i in index],
            "checkpoint_id": ["+".join(point.checkpoints)] * len(index),
            "loss": signals.loss.double().tolist(),
            "measurement": signals.measurement.double().tolist(),
            "predicted_label": signals.described.get("predicted_label", nothing),
            "given_label_probability": signals.described.get("given_label_probability", nothing),
            "gradient_norm": nothing if norm is None else norm.double().tolist(),
        },
        schema_overrides={
            "predicted_label": pl.String,
            "given_label_probability": pl.Float64,
            "gradient_norm": pl.Float64,
        },
    )


def write_training(
    contents: Contents,
    training: Examples,
    point: EvaluationPoint,
    folder: Path,
    part: Block,
    found: Sequence[BlockSignals],
) -> None:
    """Write what passes told of training examples, and what these are.

    Args:
        contents: What they are.
        training: The examples.
        point: The weights.
        folder: Of the unit.
        part: The examples that the unit may have.
        found: What they told; nothing is written of nothing.
    """
    write_table(folder, "signals", [signal_rows(one, training, point) for one in found], part)
    sketches = [rows for one in found for rows in sketch_rows(one, training, "training")]
    write_table(folder, "sketches", sketches, part)
    if found:
        contents.write(folder, part, torch.cat([one.examples for one in found]))


def written(folder: Path) -> dict[str, str]:
    """Return, for the log, what the examples are of which a folder has rows."""
    return {"rows": digest_contents(contents_of(folder))}


def write_table(folder: Path, name: str, parts: Sequence[pl.DataFrame], part: Block) -> None:
    """Write rows of training examples, held against their model: those of an audit are too many."""
    if parts:
        model, rows = TABLES[name], pl.concat(parts)
        checked = model.validate(rows.select(list(model.columns())))
        checked.write_parquet(folder / f"{name}-{part.start:09d}.parquet")
