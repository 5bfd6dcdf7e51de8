"""The demo's training."""

from pydantic import Field

from sourcetrace.parameters.base import Parameters


class DemoParameters(Parameters):
    """The demo's training run.

    Attributes:
        error_share: Share of the training labels that are exchanged for a wrong one.
        query_share: Share of the scans that are held out as queries.
        epochs, batch_size, learning_rate, momentum, weight_decay: Of the training.
        checkpoints: Checkpoints saved, evenly over the training.
        seed: Of the split, the planted errors, the weights and the order of batches.
    """

    error_share: float = Field(default=0.08, ge=0, lt=1)
    query_share: float = Field(default=0.2, gt=0, lt=1)
    epochs: int = Field(default=15, ge=1)
    batch_size: int = Field(default=32, ge=1)
    learning_rate: float = Field(default=0.02, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=1e-4, ge=0)
    checkpoints: int = Field(default=6, ge=1)
    seed: int = Field(default=0, ge=0)
