"""Tables of the checkpoint ingest."""

import pandera.polars as pa
import polars as pl

from sourcetrace.schemas.table import Table

PARAMETER_GROUP = pl.Struct(
    {
        "parameters": pl.List(pl.String),
        "learning_rate": pl.Float64,
        "momentum": pl.Float64,
        "dampening": pl.Float64,
        "weight_decay": pl.Float64,
        "step_mass": pl.Float64,
    }
)
"""The settings of one parameter group, and what its steps add to the step mass."""

OPTIMIZERS = (
    *("SGD", "Adam", "AdamW", "NAdam", "NAdamW", "RAdam", "RAdamW", "Adamax", "RMSprop"),
    *("Adagrad", "Adadelta", "Adafactor", "Lion", "Muon"),
)
"""The names of `core.training.optimizer_settings.OptimizerName`."""

VALUE_SOURCE = pl.Struct({"value": pl.String, "source": pl.String})
"""A name of a value in the manifest, and where it comes from, in words."""

STATE_PLACE = pl.Struct({"place": pl.Int64, "parameter": pl.String})
"""A number in the optimiser's state and a name of the parameter it stands for."""


class CheckpointManifest(Table):
    """One row a checkpoint, in the order of training, run after run.

    Attributes:
        run: The sub-folder of its training run; empty where there is one run without one.
        segment: Numbered over all runs.
        optimizer: Its name; a W at the end says that its weight decay is decoupled.
        learning_rate, momentum, weight_decay, step_mass: Of the first parameter group; Adam's
            momentum is 0, since its averages are normalised.
        learning_rate_source: The least sure source of the learning rate of any step that counts
            for the checkpoint.
        parameter_groups: All parameter groups.
        sources: Where each value comes from; what is assumed begins with "assumed: ". That of
            `step_mass` is that of the learning rate of every step.
        state_places: Where the optimiser's state of each parameter is.
    """

    checkpoint_id: str = pa.Field(unique=True, str_length={"min_value": 1})
    file: str
    run: str
    step: int = pa.Field(ge=0)
    stage: str
    segment: int = pa.Field(ge=1)
    optimizer: str = pa.Field(isin=OPTIMIZERS)
    learning_rate: float = pa.Field(ge=0)
    momentum: float = pa.Field(ge=0, lt=1)
    weight_decay: float = pa.Field(ge=0)
    step_mass: float = pa.Field(ge=0)
    learning_rate_source: str = pa.Field(
        isin=["recorded", "reconstructed", "constant", "interpolated"]
    )
    parameter_groups: pl.List = pa.Field(dtype_kwargs={"inner": PARAMETER_GROUP})
    sources: pl.List = pa.Field(dtype_kwargs={"inner": VALUE_SOURCE})
    state_places: pl.List = pa.Field(dtype_kwargs={"inner": STATE_PLACE})
    sha256: str = pa.Field(str_matches=r"^[0-9a-f]{64}$")
    bytes: int = pa.Field(gt=0)
    attributed_share: float = pa.Field(ge=0, le=1)

    class Config:
        """A step is unique within its run."""

        unique = ["run", "step"]  # noqa: RUF012, pandera reads it


class UnattributedParameters(Table):
    """One row a parameter that carries no attribution."""

    parameter: str = pa.Field(unique=True)
    size: int = pa.Field(ge=0)
    reason: str
