"""Which task is audited."""

from typing import Any

from pydantic import Field, field_validator

from sourcetrace.parameters.base import Parameters


class CandidateParameters(Parameters):
    """Which training examples are audited, where a few queries are asked of a large text.

    Attributes:
        columns: Columns of text, of both tables, whose words are compared by BM25.
        each: Training examples a query, the most alike first.
        sample: Training examples drawn from all, so that the curvature is not of the others alone.
    """

    columns: list[str] = Field(default=["text"], min_length=1)
    each: int = Field(default=100, ge=1)
    sample: int = Field(default=1000, ge=0)


class TaskParameters(Parameters):
    """Which task is audited.

    Attributes:
        class_path: Import path, `package.module.Class`; written `class` in YAML.
        arguments: Keyword arguments of the class.
        set_aside: Share of the training examples, and of the queries, that may be left out because
            they cannot be read or joined with the first; of the training examples also, with these,
            because a pass of them raises or is not finite; 0 refuses the first one.
        candidates: Which training examples are audited; null for all.
    """

    class_path: str = Field(alias="class", pattern=r"^[A-Za-z_][\w]*(\.[A-Za-z_]\w*)+$")
    # Not in the repr, which kedro-mlflow logs: an argument may be a secret.
    arguments: dict[str, Any] = Field(default={}, repr=False)
    set_aside: float = Field(default=0, ge=0, lt=1)
    candidates: CandidateParameters | None = None

    @field_validator("arguments", mode="before")
    @classmethod
    def _empty_is_none(cls, value: Any) -> Any:
        return {} if value is None else value  # `arguments:` with nothing behind it
