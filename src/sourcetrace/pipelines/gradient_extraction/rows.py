"""What passes tell of examples, as rows of tables."""

import polars as pl

from sourcetrace.core.engine.results import BlockSignals
from sourcetrace.core.model.examples import EvaluationPoint, Examples
from sourcetrace.schemas.scores import ContentSketches


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
