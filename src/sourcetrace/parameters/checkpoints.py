"""Where the checkpoints are."""

from typing import Any, Literal

from pydantic import Field, field_validator

from sourcetrace.parameters.base import Parameters


class CheckpointParameters(Parameters):
    """Where the checkpoints are, and what they leave unsaid.

    Attributes:
        path: A folder or file, or an address; or several that are one run, in the order of steps.
        stages: Stage -> its last step, counted over the whole training.
        learning_rates: A CSV file or its address, or a metric of an MLflow run.
        optimizer, step_from, accept: See `checkpoints.training.stated.StatedParameters`.
        at_most: Checkpoints of a run that are audited, where it has more.
        cache: Folder for what is fetched; null means `places.CACHE`.
        storage_options: Of the file system that an address names, as fsspec calls them.
    """

    path: str | tuple[str, ...]
    stages: dict[str, int] | None = None
    learning_rates: str | None = Field(default=None, min_length=1)
    optimizer: dict[str, Any] | None = None
    step_from: Literal["name", "scheduler"] | None = None
    cache: str | None = Field(default=None, min_length=1)
    accept: tuple[str, ...] | None = None
    at_most: int | None = Field(default=None, ge=1)
    # Not in the repr: it may hold a key.
    storage_options: dict[str, Any] | None = Field(default=None, repr=False)

    @field_validator("path", mode="before")
    @classmethod
    def _names_places(cls, path: Any) -> Any:
        several = [path] if isinstance(path, str) else path
        if not isinstance(several, list | tuple) or not several or not all(several):
            raise ValueError("expected a folder, a file or an address, or a list of these")
        return path
