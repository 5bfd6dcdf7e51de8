"""One frozen pydantic model a group of parameters; Kedro checks them before any node runs."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

from sourcetrace.checkpoints.places.path_template import PathTemplate
from sourcetrace.core.plan.methods import METHODS
from sourcetrace.errors import InputError
from sourcetrace.formats import format_known
from sourcetrace.schemas.metric_names import TRUST_PREFIX, GateMetric

_OF_AN_AUDIT = frozenset(
    {"task", "checkpoints", "segments", "gradients", "attribution"}
    | {"report", "gate", "verification"}
)
"""Groups of parameters that a watched model may have of its own."""


class _Parameters(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _has_known_keys(cls, content: Any) -> Any:
        known = [field.alias or name for name, field in cls.model_fields.items()]
        given = content if isinstance(content, Mapping) else ()
        if unknown := [str(name) for name in given if name not in known]:
            said = f"there is no {unknown[0]}. {format_known(unknown[0], known)}"
            raise PydanticCustomError("unknown_key", "{said}", {"said": said})
        return content


class CandidateParameters(_Parameters):
    """Which training examples are audited, where a few queries are asked of a large text.

    Attributes:
        columns: Columns of text, of both tables, whose words are compared by BM25.
        each: Training examples a query, the most alike first.
        sample: Training examples drawn from all, so that the curvature is not of the others alone.
    """

    columns: list[str] = Field(default=["text"], min_length=1)
    each: int = Field(default=100, ge=1)
    sample: int = Field(default=1000, ge=0)


class TaskParameters(_Parameters):
    """Which task is audited.

    Attributes:
        class_path: Import path, `package.module.Class`; written `class` in YAML.
        arguments: Keyword arguments of the class.
        set_aside: Share of the training examples, and of the queries, that may be left out because
            they cannot be read or joined with the first; 0 refuses the first one.
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


class CheckpointParameters(_Parameters):
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


class SegmentParameters(_Parameters):
    """How checkpoints are grouped.

    Attributes:
        count: Segments over the whole run, at least one a stage; `auto` ends a segment where the
            training gradients change most.
        ends: Steps of the checkpoints that end a segment, instead of a count.
    """

    count: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    ends: tuple[int, ...] | None = None


class GradientParameters(_Parameters):
    """How gradients are computed and kept between the stages.

    Attributes:
        batch_size: Examples a forward pass; `auto` goes by the free memory.
        cache: Where gradients are kept; `auto` takes memory where its budget allows, then the disk
            where it does and computing them again would take three times as long.
        memory_budget_gib: What `auto` may keep in memory.
        disk_budget_gib: What `auto` may keep on disk.
        memory_gib: What an audit may take of memory beside the process with its model; null for
            what is free. Where layers do not fit into their share of it together, they are taken
            in groups, and their passes are repeated.
    """

    batch_size: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    cache: Literal["auto", "memory", "disk", "recompute"] = "auto"
    memory_budget_gib: float = Field(default=1.0, ge=0)
    disk_budget_gib: float = Field(default=20.0, ge=0)
    memory_gib: float | None = Field(default=None, gt=0)

    @property
    def memory_bytes(self) -> int | None:
        """`memory_gib` in bytes."""
        return None if self.memory_gib is None else int(self.memory_gib * 2**30)


class _SolveParameters(_Parameters):
    """How exactly ASTRA solves for the queries' responses.

    Attributes:
        tolerance: Relative residual at which a query's iteration stops.
        max_iterations: Bound on the iterations of a segment.
        examples: Training examples of a stage that make up its Gauss–Newton matrix.
    """

    tolerance: float = Field(default=0.05, gt=0, lt=1)
    max_iterations: int = Field(default=20, ge=1)
    examples: int = Field(default=2048, ge=1)


class _PrecisionParameters(_Parameters):
    """Precision of three kinds of work; a lower one's error is measured, logged and in MLflow.

    Attributes:
        passes: Of forward and backward passes: `bfloat16` is autocast (not in ASTRA's products and
            in representations), `tf32` is TensorFloat-32 on a GPU that has it.
        curvature: Of the products that make up covariances and corrected eigenvalues; measured are
            the eigenvalues'.
        scores: Of the products of queries and training gradients, used where the tolerance allows
            its error.
    """

    passes: Literal["float32", "tf32", "bfloat16"] = "float32"
    curvature: Literal["float32", "tf32"] = "float32"
    scores: Literal["float32", "tf32", "bfloat16"] = "float32"


class LayerParameters(_Parameters):
    """Which of the model's parameters are attributed.

    Attributes:
        include: Patterns of names, of parameters or modules that hold them; * is anything.
        exclude: Patterns of those that are left out nevertheless.
    """

    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()


class AttributionParameters(_Parameters):
    """Which method scores, and where it runs.

    Attributes:
        method: `scaled_source`, or one of the methods to compare it with.
        device: `auto` takes a GPU where there is one; else a torch device.
        seed: Of the labels drawn from the model.
        curvature_examples: How many examples of each stage make up the curvature, drawn by the
            seed; null for all.
        damping: λ of `influence` and `astra_influence`; null means 0.1 of the mean eigenvalue.
        astra: How exactly the two methods of that name solve.
        projection_dimension: Of the gradients that `trak` projects.
        tolerance: Relative error of the scores up to which filters may be shortened; 0 takes
            them exactly.
        bare_parameters: How many numbers the parameters together may have that no known kind of
            layer covers; null for no passes of examples alone, which they and some layers take.
        layers: Which of the model's parameters are attributed.
        precision: Of passes, curvature and scores.
    """

    method: str = "scaled_source"
    device: str = "auto"
    seed: int = Field(default=0, ge=0)
    curvature_examples: int | None = Field(default=None, ge=1)
    damping: float | None = Field(default=None, gt=0)
    astra: _SolveParameters = _SolveParameters()
    projection_dimension: int = Field(default=2048, ge=1)
    tolerance: float = Field(default=1e-3, ge=0, lt=1)
    bare_parameters: int | None = Field(default=1_000_000, ge=0)
    layers: LayerParameters = LayerParameters()
    precision: _PrecisionParameters = _PrecisionParameters()

    @field_validator("method")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in METHODS:
            raise ValueError(f"expected one of {', '.join(METHODS)}; got {name!r}")
        return name


class _IssueParameters(_Parameters):
    """The score from which on each issue of `schemas.issues` is flagged.

    Attributes:
        label: Of the suspicion of suspects.
        conflicting_duplicate: Of the cosine to the nearest example of another label.
        leakage: Of the cosine to the nearest query.
        dominates_class: 1 - 1/k: k times the influence of the others of its class.
        unsupported_slice: Of how much fewer helpers the slice's queries have.
        forgotten: Of the probability that the label lost.
    """

    label: float = Field(default=0.5, gt=0, le=1)
    conflicting_duplicate: float = Field(default=0.99, gt=0, le=1)
    leakage: float = Field(default=0.99, gt=0, le=1)
    dominates_class: float = Field(default=0.9, gt=0, le=1)
    unsupported_slice: float = Field(default=0.5, gt=0, le=1)
    forgotten: float = Field(default=0.5, gt=0, le=1)


class ReportParameters(_Parameters):
    """What the review list suggests, and what is flagged.

    Attributes:
        false_discovery_rate: Suspects are as many that about this share of them has a right label.
        relabel_probability: A suspect is suggested for relabelling where the model, without the
            example itself, gives its label less than this.
        pictures: Suspects, and queries with their strongest examples, whose pictures are kept for
            the page.
        query_examples: How many helpers, and harmers, of every query are kept.
        near_duplicate: Cosine from which on two examples are near-duplicates.
        issues: Thresholds.
    """

    false_discovery_rate: float = Field(default=0.2, ge=0, lt=1)
    relabel_probability: float = Field(default=0.5, ge=0, le=1)
    pictures: int = Field(default=48, ge=0)
    query_examples: int = Field(default=10, ge=1)
    near_duplicate: float = Field(default=0.99, gt=0, le=1)
    issues: _IssueParameters = _IssueParameters()


class VerificationParameters(_Parameters):
    """What is trained again to test the scores.

    Attributes:
        subsets: Random subsets of the training data; at least 3, for a rank correlation over them,
            and 24 or more for a useful interval.
        fraction: Share of every stage's examples in a subset.
        seeds: Retrainings of the same examples; from 2 on there is a noise ceiling.
        removal_queries: Queries whose helpers are removed.
        removal_sizes: How many helpers are removed: shares of the training examples below 1,
            numbers of examples from 1 on.
        workers: Retrainings at the same time, a process each; null means one a CPU core.
        seed: Of the subsets and the choice of queries, and the first seed of the retrainings.
    """

    subsets: int = Field(default=30, ge=3)
    fraction: float = Field(default=0.5, gt=0, lt=1)
    seeds: int = Field(default=3, ge=1)
    removal_queries: int = Field(default=8, ge=0)
    removal_sizes: list[Annotated[float, Field(gt=0)]] = [0.02, 0.05]
    workers: int | None = Field(default=None, ge=1)
    seed: int = Field(default=0, ge=0)

    def removal_counts(self, examples: int) -> list[int]:
        """Return the numbers of examples that `removal_sizes` means.

        Raises:
            InputError: If one is more than half of the examples.
        """
        counts = (size * examples if size < 1 else size for size in self.removal_sizes)
        sizes = sorted({max(1, round(count)) for count in counts})
        if sizes and 2 * sizes[-1] > examples:
            raise InputError(
                f"verification.removal_sizes asks for the removal of {sizes[-1]} of {examples} "
                "training examples; use sizes up to half of them (below 1 a share, from 1 on a "
                "count)."
            )
        return sizes


class _Terse(_Parameters):
    """Parameters of which one of several is given; the others are not written."""

    @model_serializer(mode="wrap")
    def _without_nulls(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # MLflow's parameters are short, and a null says nothing.
        return {name: value for name, value in handler(self).items() if value is not None}


class _BaselineMargin(_Terse):
    """How far from an approved value a metric may be: one of the two.

    Attributes:
        difference: In the metric's units, away from the baseline in the allowed direction.
        factor: Times the baseline.
    """

    difference: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    factor: float | None = Field(default=None, gt=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.difference is None) == (self.factor is None):
            raise ValueError("give either difference or factor, e.g. {difference: 0.02}")
        return self


class GateCheck(_Terse):
    """One limit of the gate; exactly one of the four kinds.

    Attributes:
        metric: One of `gate.metric_names.METRICS`.
        at_most: Largest allowed value.
        at_least: Smallest allowed value.
        at_most_over_baseline: How much larger than the approved value; a factor is at least 1.
        at_least_under_baseline: How much smaller than the approved value; a factor is at most 1.
        severity: What exceeding the limit makes of the audit. Too little trust is never only a
            warning: of a metric `trust_…`, `inconclusive` or `fail`.
    """

    metric: GateMetric
    at_most: float | None = Field(default=None, allow_inf_nan=False)
    at_least: float | None = Field(default=None, allow_inf_nan=False)
    at_most_over_baseline: _BaselineMargin | None = None
    at_least_under_baseline: _BaselineMargin | None = None
    severity: Literal["warn", "inconclusive", "fail"] = "fail"

    @property
    def is_upper(self) -> bool:
        """Whether the limit is an upper one."""
        return self.at_most is not None or self.at_most_over_baseline is not None

    @property
    def is_relative(self) -> bool:
        """Whether the limit is against a baseline."""
        return self.at_most is None and self.at_least is None

    @property
    def margin(self) -> _BaselineMargin:
        """The margin of a limit against a baseline.

        Raises:
            ValueError: If the limit is absolute.
        """
        margin = self.at_most_over_baseline or self.at_least_under_baseline
        if margin is None:
            raise ValueError(f"the limit of {self.metric} is absolute")
        return margin

    @model_validator(mode="after")
    def _one_sound_limit(self) -> Self:
        kinds = ("at_most", "at_least", "at_most_over_baseline", "at_least_under_baseline")
        given = [kind for kind in kinds if getattr(self, kind) is not None]
        if len(given) != 1:
            raise ValueError(
                f"{self.metric}: give exactly one of {', '.join(kinds)}; got "
                f"{', '.join(given) or 'none'}"
            )
        factor = self.margin.factor if self.is_relative else None
        if factor is not None and (factor < 1 if self.is_upper else factor > 1):
            raise ValueError(
                f"{self.metric}: the factor of {given[0]} is {factor:g}, which would refuse the "
                f"baseline itself; expected at {'least' if self.is_upper else 'most'} 1"
            )
        if self.metric.startswith(TRUST_PREFIX) and self.severity == "warn":
            raise ValueError(
                f"{self.metric}: too little trust is never only a warning; set severity to "
                "inconclusive or fail"
            )
        return self


class GateParameters(_Parameters):
    """When an audit passes.

    Attributes:
        baseline: Path of an approved `gate.json`, for checks against a baseline.
        require_verification: Whether scores that no retraining has tested are inconclusive.
        checks: The limits.
        slice_columns: Columns of the training table for `slice_concentration`.
        group_minimum: Examples that a label or slice needs to count for a concentration.
        suspects: Ids of the first suspects in audit.json.
    """

    baseline: str | None = None
    require_verification: bool = False
    checks: tuple[GateCheck, ...] = ()
    slice_columns: tuple[str, ...] = ()
    group_minimum: int = Field(default=20, ge=1)
    suspects: int = Field(default=20, ge=0)


class DecisionParameters(_Parameters):
    """What `apply_decisions` is given.

    Attributes:
        path: The CSV file of decisions; null takes those that are in the log alone.
        by: Who decided; null means the user of this machine.
        sample: Examples to draw for review, half of them suspects.
        seed: Of the sample.
    """

    path: str | None = Field(default=None, min_length=1)
    by: str | None = Field(default=None, min_length=1)
    sample: int = Field(default=0, ge=0)
    seed: int = Field(default=0, ge=0)


class CleaningParameters(_Parameters):
    """What `verify_cleaning` trains again.

    Attributes:
        of: Whether people's decisions are tested, or what the review list suggests.
        seeds: Retrainings with and without the changes.
        random: Draws of as many changes at random, each trained with every seed.
        workers: Retrainings at the same time, a process each; null means one a CPU core.
        seed: The first seed of the retrainings, and of the draws.
    """

    of: Literal["decisions", "suggestions"] = "decisions"
    seeds: int = Field(default=10, ge=2)
    random: int = Field(default=3, ge=0)
    workers: int | None = Field(default=None, ge=1)
    seed: int = Field(default=0, ge=0)


class ComparisonParameters(_Parameters):
    """How an audit is compared with earlier ones.

    Attributes:
        keep: Audits of a task and model that are kept; the trends show as many. At least two:
            an audit that runs again is compared with the one before it.
        class_minimum: Examples that a label needs to have a rank correlation of its own.
    """

    keep: int = Field(default=30, ge=2)
    class_minimum: int = Field(default=20, ge=3)


class RegisteredModelParameters(_Parameters):
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


class WatchedModelParameters(_Parameters):
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


class OpenLineageParameters(_Parameters):
    """Where events of OpenLineage are written.

    Attributes:
        path: File that events are appended to, a line of JSON each; relative to the project.
        namespace: Of jobs and data sets.
    """

    path: str = Field(min_length=1)
    namespace: str = Field(default="sourcetrace", min_length=1)


class TrackingParameters(_Parameters):
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


class AlertParameters(_Parameters):
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


class DemoParameters(_Parameters):
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


GROUPS: Mapping[str, type[BaseModel]] = {
    "task": TaskParameters,
    "checkpoints": CheckpointParameters,
    "segments": SegmentParameters,
    "gradients": GradientParameters,
    "attribution": AttributionParameters,
    "report": ReportParameters,
    "comparison": ComparisonParameters,
    "gate": GateParameters,
    "verification": VerificationParameters,
    "decisions": DecisionParameters,
    "cleaning": CleaningParameters,
    "tracking": TrackingParameters,
    "alerts": AlertParameters,
    "demo": DemoParameters,
}
"""Group of parameters -> its model."""
