"""Tables of extraction and scoring; a score is the predicted change when its example is removed."""

import pandera.polars as pa
import polars as pl

from sourcetrace.schemas.table import Table


class ExampleSignals(Table):
    """One row a training example and evaluation point."""

    example_id: str
    checkpoint_id: str
    loss: float
    measurement: float
    predicted_label: str | None = pa.Field(nullable=True)
    given_label_probability: float | None = pa.Field(nullable=True, ge=0, le=1)
    gradient_norm: float = pa.Field(ge=0)

    class Config:
        """One row a pair."""

        unique = ("example_id", "checkpoint_id")


class QuerySignals(Table):
    """One row a query, at the final checkpoint."""

    example_id: str = pa.Field(unique=True)
    loss: float
    measurement: float
    predicted_label: str | None = pa.Field(nullable=True)
    given_label_probability: float | None = pa.Field(nullable=True, ge=0, le=1)


class ContentSketches(Table):
    """One row an example, by whose cosines near-duplicates are found; none where nothing has any.

    Attributes:
        side: training or query.
        sketch: See `core.gradients.sketches`; at the last final checkpoint.
    """

    side: str = pa.Field(isin=("training", "query"))
    example_id: str
    sketch: pl.Array = pa.Field(dtype_kwargs={"inner": pl.Float32(), "shape": 32})

    class Config:
        """One row a pair."""

        unique = ("side", "example_id")


class QueryHistory(Table):
    """One row a query and evaluation point."""

    example_id: str
    checkpoint_id: str
    loss: float
    measurement: float
    given_label_probability: float | None = pa.Field(nullable=True, ge=0, le=1)

    class Config:
        """One row a pair."""

        unique = ("example_id", "checkpoint_id")


class AttributionScores(Table):
    """One row a training example.

    Attributes:
        scores: One value a query, in their order; float32 or float16.
        scale: What scores in float16 are to be multiplied by, a power of two.
        scores_digest: Of a file whose scores are not kept, the SHA-256 of theirs in float32.
    """

    example_id: str = pa.Field(unique=True)
    scores: pl.Array | None
    scale: pl.Float32 | None = pa.Field(gt=0)
    scores_digest: str | None

    @pa.dataframe_check(error="scores must be an array of finite numbers")
    @classmethod
    def finite(cls, data: pa.PolarsData) -> bool:
        """Refuse NaN and infinite scores: they come from a diverged model or a bad loss."""
        schema = data.lazyframe.collect_schema()
        if "scores_digest" in schema:
            return "scores" not in schema
        if not isinstance(schema.get("scores"), pl.Array):
            return False
        values = data.lazyframe.select(pl.col("scores").explode())
        return bool(values.select(pl.col("scores").is_finite().all()).collect().item())


class QueryInfluence(Table):
    """One row a training example: what its removal would do to all queries together.

    Attributes:
        harm: Σ over queries of how much better the measurement is predicted to get; above 0
            the queries would gain from the removal.
        harm_error: Standard error of harm, in its units: the root of the next two's summed
            squares.
        harm_error_checkpoints: From the spread over each segment's checkpoints.
        harm_error_queries: From the spread over the queries.
        sign_stable: Whether harm is more than two standard errors away from 0.
        mean_query_loss_influence: Predicted change of the queries' mean training loss; below 0
            the queries would gain.
        queries_harmed: Queries whose measurement would get better.
        most_harmed_query: The query that would gain most.
        most_harmed_score: Its score.
        absolute_score: Σ over queries of |score|.
        method: The attribution method that scored.
    """

    example_id: str = pa.Field(unique=True)
    harm: float
    harm_error: float = pa.Field(ge=0)
    harm_error_checkpoints: float = pa.Field(ge=0)
    harm_error_queries: float = pa.Field(ge=0)
    sign_stable: bool
    mean_query_loss_influence: float
    queries_harmed: int = pa.Field(ge=0)
    most_harmed_query: str
    most_harmed_score: float
    absolute_score: float = pa.Field(ge=0)
    method: str


class SelfInfluence(Table):
    """One row a training example: predicted change of its own loss when it is removed."""

    example_id: str = pa.Field(unique=True)
    self_influence: float


class SegmentContributions(Table):
    """One row a training example and segment; the segments' values add up to the scores'."""

    example_id: str
    segment: int = pa.Field(ge=1)
    harm: float
    mean_query_loss_influence: float
    mean_absolute_score: float = pa.Field(ge=0)
    self_influence: float


class SuspectPictures(Table):
    """Pictures of the examples that harm the queries most; none where the task has none."""

    example_id: str = pa.Field(unique=True)
    height: int = pa.Field(ge=1)
    width: int = pa.Field(ge=1)
    channels: int = pa.Field(isin=(1, 3))
    pixels: pl.List = pa.Field(dtype_kwargs={"inner": pl.Float32()})
