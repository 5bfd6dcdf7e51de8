"""What others are told of a run, and which models are watched."""

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from sourcetrace.checkpoints.places.path_template import PathTemplate
from sourcetrace.parameters.base import Parameters

_OF_AN_AUDIT = frozenset(
    {"task", "checkpoints", "segments", "gradients", "attribution"}
    | {"report", "gate", "verification"}
)
"""Groups of parameters that a watched model may have of its own."""


class RegisteredModelParameters(Parameters):
    """A version of a model in MLflow's registry: by its number or by an alias, one of the two.

    Attributes:
        name: Of the registered model.
        version: Its number.
        alias: A name that points to a version, when the audit starts.
    """

    name: str = Field(min_length=1)
    # `version: 3` of YAML is its text.
    version: str | None = Field(default=None, pattern="^[0-9]+$", coerce_numbers_to_str=True)
    alias: str | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _names_one(self) -> Self:
        if (self.version is None) == (self.alias is None):
            raise ValueError("registered_model: give either version or alias")
        return self


class WatchedModelParameters(Parameters):
    """A registered model whose versions `sourcetrace audit --pending` audits.

    Attributes:
        name: Of the registered model.
        checkpoints: Where a version's checkpoints are, with `{version}`, `{run_id}` (of the
            training run) or `{tag:name}` (of the version, else of the training run) in it; a
            tag's value stays in the folder before it. Null means what MLflow has of the version:
            `models:/<name>/<version>`.
        newest: Versions that are watched, the newest first; null for all.
        parameters: What this model's audits have other than the project's, by group.
    """

    # At least one character that is no dot: the name is a folder's, too.
    name: str = Field(pattern=r"^[^/\\:]*[^/\\:.][^/\\:]*$")
    checkpoints: Annotated[str, AfterValidator(PathTemplate)] | None = None
    newest: int | None = Field(default=3, ge=1)
    # Not in the repr: an argument of the task may be a secret.
    parameters: dict[str, dict[str, Any]] = Field(default={}, repr=False)

    @model_validator(mode="after")
    def _has_its_own_place(self) -> Self:
        if unknown := sorted(set(self.parameters) - _OF_AN_AUDIT):
            raise ValueError(
                f"parameters: expected groups out of {', '.join(sorted(_OF_AN_AUDIT))}; got "
                f"{', '.join(unknown)}"
            )
        if "path" in self.parameters.get("checkpoints", {}):
            raise ValueError("parameters.checkpoints.path: write it as checkpoints instead")
        return self


class OpenLineageParameters(Parameters):
    """Where events of OpenLineage are written.

    Attributes:
        path: File that events are appended to, a line of JSON each; relative to the project.
        namespace: Of jobs and data sets.
    """

    path: str = Field(min_length=1)
    namespace: str = Field(default="sourcetrace", min_length=1)


class TrackingParameters(Parameters):
    """What others are told of a run.

    Attributes:
        registered_model: The audited version, which is tagged with the outcome; null means the
            version that the same run registered, if it did.
        pending: The models that `sourcetrace audit --pending` watches.
        openlineage: Where events of OpenLineage are written; null means nowhere.
    """

    registered_model: RegisteredModelParameters | None = None
    pending: tuple[WatchedModelParameters, ...] = ()
    openlineage: OpenLineageParameters | None = None

    @model_validator(mode="after")
    def _watches_each_once(self) -> Self:
        names = [one.name for one in self.pending]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            # Each entry would find the other's audits to be of other parameters, and repeat them.
            raise ValueError(f"pending: {', '.join(repeated)} is named more than once")
        return self


class AlertParameters(Parameters):
    """Whom to tell when an audit ends badly.

    Attributes:
        outcomes: Which ends of an audit are told.
        url_variable: Environment variable with the address; unset: nobody is told.
        secret_variable: Environment variable with a secret that signs the message; may be unset.
        timeout_seconds: Of one attempt.
        total_seconds: Of all attempts.
    """

    outcomes: tuple[Literal["pass", "warn", "inconclusive", "fail", "error"], ...] = (
        "fail",
        "inconclusive",
        "error",
    )
    url_variable: str = Field(default="SOURCETRACE_ALERT_URL", pattern=r"^[A-Za-z_]\w*$")
    secret_variable: str = Field(default="SOURCETRACE_ALERT_SECRET", pattern=r"^[A-Za-z_]\w*$")
    timeout_seconds: float = Field(default=10, gt=0)
    total_seconds: float = Field(default=60, gt=0, le=600)
