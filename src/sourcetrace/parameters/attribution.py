"""How scores are computed: segments, gradients and the method."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from sourcetrace.core.plan.methods import METHODS
from sourcetrace.parameters.base import Parameters


class SegmentParameters(Parameters):
    """How checkpoints are grouped.

    Attributes:
        count: Segments over the whole run, at least one a stage; `auto` ends a segment where the
            training gradients change most.
        ends: Steps of the checkpoints that end a segment, instead of a count.
    """

    count: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    ends: tuple[int, ...] | None = None


class GradientParameters(Parameters):
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


class _SolveParameters(Parameters):
    """How exactly ASTRA solves for the queries' responses.

    Attributes:
        tolerance: Relative residual at which a query's iteration stops.
        max_iterations: Bound on the iterations of a segment.
        examples: Training examples of a stage that make up its Gauss–Newton matrix.
    """

    tolerance: float = Field(default=0.05, gt=0, lt=1)
    max_iterations: int = Field(default=20, ge=1)
    examples: int = Field(default=2048, ge=1)


class _PrecisionParameters(Parameters):
    """Precision of three kinds of work; a lower one's error is measured, logged and in MLflow.

    Of a fourth, how scores are kept, it is known.

    Attributes:
        passes: Of forward and backward passes: `bfloat16` is autocast (not in ASTRA's products and
            in representations), `tf32` is TensorFloat-32 on a GPU that has it.
        curvature: Of the products that make up covariances and corrected eigenvalues; measured are
            the eigenvalues'.
        scores: Of the products of queries and training gradients, used where the tolerance allows
            its error.
        stored_scores: In which scores are kept: `float16` takes half the disk, and each is off by
            at most 2⁻¹¹ of itself and 2⁻³⁹ of the example's largest; `strongest` keeps those of
            each query's strongest examples alone, and sums over the others.
    """

    passes: Literal["float32", "tf32", "bfloat16"] = "float32"
    curvature: Literal["float32", "tf32"] = "float32"
    scores: Literal["float32", "tf32", "bfloat16"] = "float32"
    stored_scores: Literal["float32", "float16", "strongest"] = "float32"


class LayerParameters(Parameters):
    """Which of the model's parameters are attributed.

    Attributes:
        include: Patterns of names, of parameters or modules that hold them; * is anything.
        exclude: Patterns of those that are left out nevertheless.
    """

    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()


class AttributionParameters(Parameters):
    """Which method scores, and where it runs.

    Attributes:
        method: `scaled_source`, or one of the methods to compare it with.
        device: `auto` takes a GPU where there is one; else a torch device.
        seed: Of the labels drawn from the model.
        sampled_labels: How many an example has in the curvature; `auto` takes one, or of few
            examples as many as make its expectation exact.
        curvature_examples: How many examples of each stage make up the curvature, drawn by the
            seed; null for all.
        kept_curvature: Share of the training examples that may have come or gone since a curvature
            was computed, up to which it is taken as it is, and so are the queries' responses; not
            by the ASTRA methods and TRAK.
        damping: λ of `influence` and `astra_influence`; null means 0.1 of the mean eigenvalue.
        astra: How exactly the two methods of that name solve.
        projection_dimension: Of the gradients that `trak` projects.
        tolerance: Relative error of the scores up to which filters may be shortened; 0 takes
            them exactly.
        bare_parameters: How many numbers the parameters together may have that no known kind of
            layer covers; null for no passes of examples alone, which they and some layers take.
        layers: Which of the model's parameters are attributed.
        strongest_examples: How many helpers, and harmers, of every query are listed.
        precision: Of passes, curvature and scores.
    """

    method: str = "scaled_source"
    device: str = "auto"
    seed: int = Field(default=0, ge=0)
    sampled_labels: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    curvature_examples: int | None = Field(default=None, ge=1)
    kept_curvature: float = Field(default=0.0, ge=0, lt=1)
    damping: float | None = Field(default=None, gt=0)
    astra: _SolveParameters = _SolveParameters()
    projection_dimension: int = Field(default=2048, ge=1)
    tolerance: float = Field(default=1e-3, ge=0, lt=1)
    bare_parameters: int | None = Field(default=1_000_000, ge=0)
    layers: LayerParameters = LayerParameters()
    strongest_examples: int = Field(default=10, ge=1)
    precision: _PrecisionParameters = _PrecisionParameters()

    @field_validator("method")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in METHODS:
            raise ValueError(f"expected one of {', '.join(METHODS)}; got {name!r}")
        return name
