"""What the three numerical stages have in common: the plan, and the gradients it needs."""

import hashlib
import json
from dataclasses import dataclass

import polars as pl
import torch

from sourcetrace.core.examples import Examples
from sourcetrace.core.gradient_source import GradientSource
from sourcetrace.core.layers import Coverage, find_layers
from sourcetrace.core.plan import AttributionPlan, make_plan
from sourcetrace.core.segments import Segment
from sourcetrace.datasets.checkpoints import CheckpointFolder
from sourcetrace.datasets.gradient_cache import GradientCache
from sourcetrace.parameters import AttributionParameters, GradientParameters
from sourcetrace.pipelines.device import pick_device
from sourcetrace.tasks import Task


@dataclass(frozen=True)
class AuditSetup:
    """The plan of an audit, its gradients and its queries.

    Attributes:
        plan: What is evaluated.
        source: The training gradients.
        queries: The queries.
        identity: Digest of all that a stage's result depends on.
    """

    plan: AttributionPlan
    source: GradientSource
    queries: Examples
    identity: str


def set_up_audit(
    *,
    task: Task,
    checkpoints: CheckpointFolder,
    checkpoint_manifest: pl.DataFrame,
    train_table: pl.DataFrame,
    query_table: pl.DataFrame,
    gradient_cache: GradientCache,
    gradients: GradientParameters,
    attribution: AttributionParameters,
) -> AuditSetup:
    """Make the same plan and gradient source in every stage, from what the ingest wrote."""
    training = Examples(task.train_examples(), train_table["example_id"].to_list(), task.collate)
    queries = Examples(task.query_examples(), query_table["example_id"].to_list(), task.collate)
    plan = make_plan(
        attribution.method,
        segments_of(checkpoint_manifest),
        stage_examples(train_table),
        examples=train_table.height,
        damping=attribution.damping,
    )
    device = pick_device(attribution.device)
    model = task.build_model().to(device)
    files = {row["checkpoint_id"]: row for row in checkpoint_manifest.iter_rows(named=True)}
    settings = [
        f"{type(task).__module__}.{type(task).__qualname__}",
        sorted((row["sha256"], row["segment"]) for row in files.values()),
        gradients.batch_size,
        attribution.method,
        attribution.seed,
        device.type,
        train_table.hash_rows(seed=0).to_list(),
    ]
    identity = hashlib.sha256(json.dumps(settings).encode()).hexdigest()
    gradient_cache.open(identity)
    source = GradientSource(
        model=model,
        objective=task,
        coverage=coverage_of(task, model, training, device),
        training=training,
        load_weights=lambda name: checkpoints.weights(files[name]["file"], files[name]["sha256"]),
        cache=gradient_cache,
        batch_size=gradients.batch_size,
        seed=attribution.seed,
        device=device,
    )
    return AuditSetup(plan, source, queries, identity)


def coverage_of(
    task: Task, model: torch.nn.Module, training: Examples, device: torch.device
) -> Coverage:
    """Find the attributed layers, by a forward pass over the first training examples."""
    count = min(2, len(training))
    batch = training.batch(range(count), device)
    return find_layers(model.eval(), lambda: task.forward(model, batch), examples=count)


def segments_of(checkpoint_manifest: pl.DataFrame) -> list[Segment]:
    """Rebuild the segments from the manifest."""
    segments = []
    for (number,), rows in checkpoint_manifest.group_by("segment", maintain_order=True):
        mass = float(rows["step_mass"].sum())
        decay = float((rows["step_mass"] * rows["weight_decay"]).sum()) / mass
        names = tuple(rows["checkpoint_id"].to_list())
        segments.append(Segment(int(str(number)), rows["stage"][0], mass, decay, names))
    return segments


def stage_examples(train_table: pl.DataFrame) -> dict[str, torch.Tensor]:
    """Return the numbers of the training examples of every stage, increasing."""
    numbered = train_table.select("stage").with_row_index("number")
    return {
        str(stage): torch.tensor(rows["number"].to_list())
        for (stage,), rows in numbered.group_by("stage", maintain_order=True)
    }
