"""How the checkpoints were trained: parameter groups by name, and every step's learning rate."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from typing import Any, Self

from torch import nn

from sourcetrace.checkpoints.folder import Checkpoint, CheckpointFolder
from sourcetrace.checkpoints.parameter_names import ModelParameters
from sourcetrace.core.plan.methods import METHODS
from sourcetrace.core.training.optimizer_settings import ADAPTIVE
from sourcetrace.core.training.schedules import CheckpointRates, sum_rates
from sourcetrace.core.training.segments import CheckpointRecord, check_order, group_step_masses
from sourcetrace.errors import InputError
from sourcetrace.formats import format_names
from sourcetrace.pipelines.checkpoint_ingest.known_rates import known_rates
from sourcetrace.pipelines.shared.manifest import row_of

logger = logging.getLogger(__name__)

_FEWER = 0.9
"""Of the steps that checkpoints say, what an optimiser must have made at least."""


@dataclass(frozen=True)
class Training:
    """What the checkpoints together say of the training, one entry a checkpoint.

    Attributes:
        records: With named groups and summed rates.
        rates: Where the rates came from.
        places: Place in the optimiser's state -> names.
        sources: Value of the manifest -> where it comes from, in words.
        own_steps: Steps that the optimiser itself has counted; 0 where it counts none.
    """

    records: tuple[CheckpointRecord, ...]
    rates: tuple[CheckpointRates, ...]
    places: tuple[Mapping[int, tuple[str, ...]], ...]
    sources: tuple[Mapping[str, str], ...]
    own_steps: tuple[int, ...]

    @classmethod
    def of_runs(
        cls, found: Sequence[Checkpoint], folder: CheckpointFolder, model: nn.Module
    ) -> list[Self]:
        """Describe every training run by itself.

        Raises:
            InputError: If a run's checkpoints contradict each other, the model or a file of rates,
                or runs have other stages.
        """
        runs = []
        for _, own in groupby(found, key=lambda checkpoint: checkpoint.record.run):
            members = list(own)
            parameters = ModelParameters(model)
            named = [parameters.name_groups(one.file, one.training) for one in members]
            records = [
                replace(one.record, groups=groups)
                for one, (groups, _) in zip(members, named, strict=True)
            ]
            check_order(records)
            known = known_rates(members, records, folder)
            scheduled = {
                record.stage
                for one, record in zip(members, records, strict=True)
                if one.training.scheduler is not None
            }
            summed, rates = sum_rates(
                records, stage_ends=folder.stage_ends, known=known, scheduled=scheduled
            )
            # The last log of a stage is of all its steps.
            clipped = {
                one.record.stage: {"clipping": one.training.sources["clipping"]}
                for one in members
                if "clipping" in one.training.sources
            }
            sources = (
                {
                    **one.training.sources,
                    **clipped.get(one.record.stage, {}),
                    "step_mass": ", then ".join(described.origins),
                }
                for one, described in zip(members, rates, strict=True)
            )
            runs.append(
                cls(
                    tuple(summed),
                    tuple(rates),
                    tuple(places for _, places in named),
                    tuple(sources),
                    tuple(one.training.own_steps for one in members),
                )
            )
        first = runs[0]
        for run in runs:
            if run.stages != first.stages:
                raise InputError(
                    f"Run {run.name!r} has stages {' → '.join(run.stages)}, but run {first.name!r} "
                    f"has {' → '.join(first.stages)}. The sub-folders of checkpoints.path must "
                    "hold runs of the same training; point checkpoints.path to one of them, or "
                    "move the others."
                )
        return runs

    @property
    def name(self) -> str:
        """The run's name; empty where there is one run without one."""
        return self.records[0].run

    @property
    def stages(self) -> list[str]:
        """Its stages, in order."""
        return list(dict.fromkeys(record.stage for record in self.records))

    @property
    def told_by(self) -> str:
        """Where the values come from, each once, in words."""
        found: dict[str, dict[str, None]] = {}
        for one in self.sources:
            for value, source in one.items():
                found.setdefault(value, {})[source] = None
        return "; ".join(f"{value}: {format_names(list(of))}" for value, of in found.items())

    def warn_of_other_counts(self) -> None:
        """Say where the optimiser made fewer steps than the checkpoints say that it did."""
        both = list(zip(self.records, self.own_steps, strict=True))
        for (before, earlier), (after, own) in pairwise(both):
            said, made = after.step - before.step, own - earlier
            # A scaler skips a step now and then; an optimiser that was made anew begins with 0.
            if earlier and 0 < made < _FEWER * said and before.stage == after.stage:
                logger.warning(
                    "From %s to %s, step rises by %d, but the optimiser made %d steps. Where step "
                    "counts batches whose gradients are accumulated, the step masses are %.3g "
                    "times what they should be: save the optimiser's steps",
                    before.id,
                    after.id,
                    said,
                    made,
                    said / made,
                )
                return

    def warn_of_filled_rates(self) -> None:
        """Say for which steps rate or momentum is not known, and how much hangs on them."""
        run = f"Run {self.name}: " if self.name else ""
        moved = [
            f"{record.id} ({record.momentum:g})"
            for record, described in zip(self.records, self.rates, strict=True)
            if described.momentum_guessed
        ]
        if moved:
            logger.warning(
                "%sThe momentum changed on the way to %s, and nothing says for sure how: a guess "
                "between the checkpoints' momenta stands for it, and the step mass is as good as "
                "that guess. Save lr_scheduler_state_dict in the checkpoints where a OneCycleLR or "
                "CyclicLR moved it after every step; else save one where it changed",
                run,
                ", ".join(moved),
            )
        masses = [own[0] for own in group_step_masses(self.records)]
        total = sum(masses)
        filled = [
            (one, mass * one.interpolated_share)
            for one, mass in zip(self.rates, masses, strict=True)
            if one.interpolated_steps
        ]
        if not filled or not total:
            return
        logger.warning(
            "%sThe learning rate of %d steps is not recorded (of steps %s), and no saved scheduler "
            "tells it for sure: a guess between the checkpoints' rates stands for them, %.1f %% of "
            "the step mass. Save learning_rates in the checkpoints, or set "
            "checkpoints.learning_rates to a CSV file",
            run,
            sum(one.interpolated_steps for one, _ in filled),
            ", ".join(f"{one.first_step}–{one.last_step}" for one, _ in filled),
            100 * sum(mass for _, mass in filled) / total,
        )

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield what the manifest says of every checkpoint's training."""
        masses = group_step_masses(self.records)
        for record, rates, places, sources, own in zip(
            self.records, self.rates, self.places, self.sources, masses, strict=True
        ):
            yield {
                **row_of(record, own),
                "learning_rate_source": rates.source,
                "sources": [
                    {"value": value, "source": source} for value, source in sources.items()
                ],
                "state_places": [
                    {"place": place, "parameter": name}
                    for place, names in places.items()
                    for name in names
                ],
            }


def refuse_lost_moments(found: Sequence[Checkpoint], method: str) -> None:
    """Refuse a method that needs Adam's second moments where they are said to be lost.

    Raises:
        InputError: If a checkpoint has none.
    """
    lost = [
        one.file
        for one in found
        if one.training.optimizer in ADAPTIVE and one.training.step and not one.training.shapes
    ]
    if lost and METHODS[method].follows_optimizer:
        others = [name for name, one in METHODS.items() if not one.follows_optimizer]
        raise InputError(
            f"{format_names(lost)}: Adam's second moments are lost (second_moments: none), without "
            f"which {method} does not know how far a step moved each parameter. Set "
            f"attribution.method to one of {', '.join(others)}."
        )
