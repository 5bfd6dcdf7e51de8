"""All that is found out of the inputs of an audit before anything expensive starts.

An audit's ingest asks for every part and ends with the first that is refused; a preflight asks for
every part and says what became of each.
"""

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import polars as pl
import torch
from torch import nn

from sourcetrace.checkpoints.folder import Checkpoint, CheckpointFolder
from sourcetrace.checkpoints.repeated import without_repeated
from sourcetrace.core.layers.discovery import Coverage
from sourcetrace.core.methods.memory_needs import MemoryNeeds
from sourcetrace.core.model.examples import Examples
from sourcetrace.core.training.segments import Segment, number_segments, partition, partition_at
from sourcetrace.formats import format_names
from sourcetrace.parameters import AttributionParameters, SegmentParameters
from sourcetrace.pipelines.checkpoint_ingest import losses
from sourcetrace.pipelines.checkpoint_ingest.drift import drifting_segments
from sourcetrace.pipelines.checkpoint_ingest.independence import refuse_coupled
from sourcetrace.pipelines.checkpoint_ingest.labels import classes_of
from sourcetrace.pipelines.checkpoint_ingest.model import build_model
from sourcetrace.pipelines.checkpoint_ingest.part import part
from sourcetrace.pipelines.checkpoint_ingest.tables import (
    checked_table,
    digest_side,
    place_in_stages,
    refuse_varying,
)
from sourcetrace.pipelines.checkpoint_ingest.taken_for import say_what_folders_are
from sourcetrace.pipelines.checkpoint_ingest.thinned import Thinned, warn_of_many
from sourcetrace.pipelines.checkpoint_ingest.training import Training, refuse_lost_moments
from sourcetrace.pipelines.shared.coverage import coverage_of
from sourcetrace.pipelines.shared.device import pick_device
from sourcetrace.pipelines.shared.manifest import plan_of, stage_examples
from sourcetrace.pipelines.shared.memory import refuse_too_large
from sourcetrace.pipelines.shared.set_aside import usable_few
from sourcetrace.tasks import Task
from sourcetrace.tasks.items import CheckedItems

logger = logging.getLogger(__name__)


class Examination:
    """The inputs of an audit, examined part by part; each part needs those that it asks for.

    Args:
        checkpoints: The folder of checkpoints.
        task: The task they were trained on.
        segments: How many segments, or where they end.
        attribution: The device on which the losses are tried.
    """

    def __init__(
        self,
        checkpoints: CheckpointFolder,
        task: Task,
        segments: SegmentParameters,
        attribution: AttributionParameters,
    ) -> None:
        self.checkpoints, self.task = checkpoints, task
        self._segments, self._attribution = segments, attribution

    @part
    def model(self) -> nn.Module:
        """The model as the task builds it."""
        return build_model(self.task)

    @part
    def thinned(self) -> Thinned | None:
        """The runs of few checkpoints, of more; None where all are audited."""
        if self.checkpoints.at_most is None:
            return None
        return Thinned.of(self.checkpoints, self.model)

    @part
    def digests(self) -> Mapping[str, str]:
        """Name -> SHA-256 of every checkpoint and of the JSON beside it, of those left out too."""
        if self.thinned is not None:
            return self.checkpoints.digests(self.thinned.digests)
        return self.checkpoints.digests({one.file: one.sha256 for one in self._read})

    @part
    def found(self) -> list[Checkpoint]:
        """The checkpoints, run after run; the last one's weights alone are kept."""
        *found, last = without_repeated(self._read, self.checkpoints, self.model)
        weights = last.state_dict or self.checkpoints.weights(last.file, last.sha256, self.model)
        return [*found, replace(last, state_dict=weights)]

    @part
    def _read(self) -> list[Checkpoint]:
        """The checkpoints, those that were saved twice included."""
        found: list[Checkpoint] = []
        files = self.checkpoints.files()
        if self.thinned is not None:
            files = [file for file in files if self.checkpoints.id_of(file) in self.thinned.kept]
        warn_of_many(len(files))
        for file in files:
            if found:
                found[-1] = replace(found[-1], state_dict={})
            found.append(self.checkpoints.load(file, self.model))
        return found

    @part
    def runs(self) -> list[Training]:
        """What the checkpoints say of the training, by run."""
        say_what_folders_are(self.found)
        refuse_lost_moments(self.found, self._attribution.method)
        if self.thinned is not None:
            return self.thinned.runs
        return Training.of_runs(self.found, self.checkpoints, self.model)

    @part
    def rates(self) -> list[Training]:
        """The runs, of whose values was said where they come from, and what is not known."""
        for run in self.runs:
            name = f"Run {run.name}: " if run.name else ""
            logger.debug("%sWhere values come from: %s", name, run.told_by)
            run.warn_of_other_counts()
            run.warn_of_filled_rates()
        return self.runs

    @part
    def planned(self) -> list[Segment]:
        """The segments by number or ends; one a stage for `auto`, which needs gradients."""
        ends, count = self._segments.ends, self._segments.count
        number = 1 if count == "auto" else count
        return number_segments(
            [run.records for run in self.runs],
            lambda one: partition(one, number) if ends is None else partition_at(one, ends),
        )

    @part
    def train_given(self) -> pl.DataFrame:
        """The table of training examples, whose stages are not looked at."""
        return checked_table(self.task, "train")

    @part
    def query_table(self) -> pl.DataFrame:
        """The table of queries."""
        return checked_table(self.task, "query")

    @part
    def train_table(self) -> pl.DataFrame:
        """The table of training examples, each with its stages."""
        stages = list(dict.fromkeys(segment.stage for segment in self.planned))
        return place_in_stages(self.train_given, stages)

    @part
    def training(self) -> Examples:
        """The training examples."""
        ids = self.train_given["example_id"]
        return Examples(CheckedItems(self.task, "train", ids), ids, self.task.collate)

    @part
    def queries(self) -> Examples:
        """The queries."""
        ids = self.query_table["example_id"].to_list()
        return Examples(CheckedItems(self.task, "query", ids), ids, self.task.collate)

    @part
    def same_at_each_reading(self) -> None:
        """Whether a few examples are the same whenever they are read."""
        for examples in (self.training, self.queries):
            refuse_varying(self.task, examples.items)

    @part
    def device(self) -> torch.device:
        """Where the losses are tried."""
        return pick_device(self._attribution.device)

    @part
    def trained(self) -> nn.Module:
        """The model with the last checkpoint's weights."""
        return losses.model_at(self.task, self.found[-1], self.device)

    @part
    def few(self) -> Examples:
        """The training examples that are tried."""
        return usable_few(self.task, self.trained, self.training)

    @part
    def tried(self) -> tuple[nn.Module, Any]:
        """The trained model, which has sound losses for the first examples, and its outputs."""
        model, outputs = self.trained, None
        for examples in (self.queries, self.few):
            outputs = losses.try_losses(self.task, model, examples, file=self.found[-1].file)
        return model, outputs

    @part
    def coverage(self) -> Coverage:
        """Which parameters are attributed."""
        coverage = coverage_of(
            self.task,
            self.tried[0],
            self.few,
            self.device,
            self.planned,
            attribution=self._attribution,
        )
        reasons: dict[str, list[str]] = {}
        for parameter in coverage.unattributed:
            reasons.setdefault(parameter.reason, []).append(parameter.name)
        for reason, names in reasons.items():
            logger.warning("No attribution for %s: %s", format_names(names), reason)
        return coverage

    @part
    def weights_dtype(self) -> torch.dtype:
        """The precision of the model's weights, in which it computes."""
        return losses.warn_of_low_precision(self.tried[0])

    @part
    def gradient_error(self) -> float:
        """How far the first examples' gradients are from autograd's, relative."""
        return losses.gradient_error(self.task, self.tried[0], self.few, self.coverage)

    @part
    def queries_independent(self) -> None:
        """Whether a few queries' values depend on their batch."""
        self._independent(self.queries, "measurement")

    @part
    def training_independent(self) -> None:
        """Whether a few training examples' values depend on their batch."""
        self._independent(self.few, "train_loss")

    def _independent(self, examples: Examples, differentiated: str) -> None:
        refuse_coupled(
            self.task,
            self.tried[0],
            examples,
            differentiated=differentiated,
            device=self.device,
        )

    @part
    def curvature(self) -> float | None:
        """The sampled loss's curvature over the training loss's."""
        return losses.compare_curvatures(self.task, self.tried[0], self.few)

    @part
    def segments(self) -> list[Segment]:
        """The segments as they will be."""
        if self._segments.ends is not None or self._segments.count != "auto":
            return self.planned
        return drifting_segments(
            self.task,
            self.model.to(self.device),
            self.checkpoints,
            self.coverage,
            self.training,
            records=[run.records for run in self.runs],
            stage_examples=stage_examples(self.train_table),
        )

    @part
    def memory(self) -> tuple[MemoryNeeds, int]:
        """What the audit holds in memory, with one segment a stage for `auto`; and what is free."""
        plan = plan_of(
            self.planned, self.train_table, self.training, self.coverage, self._attribution
        )
        return refuse_too_large(
            self.model,
            self.coverage.layers,
            plan,
            self._attribution.method,
            queries=len(self.queries),
            device=self.device,
        )

    @part
    def training_digest(self) -> tuple[dict[str, Any], pl.DataFrame]:
        """What data_digests says of the training examples, and example_digests; all are read."""
        return digest_side(
            self.task, self.training.items, self.train_given, classes=self._classes()
        )

    @part
    def queries_digest(self) -> dict[str, Any]:
        """What data_digests says of the queries; all are read."""
        items, classes = self.queries.items, self._classes()
        return digest_side(self.task, items, self.query_table, classes=classes)[0]

    def _classes(self) -> int | None:
        """Return how many classes a label may be of; None where that is the task's own business."""
        try:
            _, outputs = self.tried
        except Exception:  # said where it was tried
            return None
        return classes_of(self.task, outputs)
