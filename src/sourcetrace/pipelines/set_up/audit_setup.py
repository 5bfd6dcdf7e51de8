"""What the numerical stages work with, and what names their units."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from typing import TYPE_CHECKING

import polars as pl
import torch

from sourcetrace.core.engine.gradient_engine import GradientEngine
from sourcetrace.core.methods.memory_needs import MemoryNeeds
from sourcetrace.core.model.examples import Examples
from sourcetrace.core.plan.methods import METHODS
from sourcetrace.core.plan.plan import AttributionPlan
from sourcetrace.datasets.gradient_cache import GradientCache
from sourcetrace.files import digest_of
from sourcetrace.parameters import AttributionParameters
from sourcetrace.pipelines.set_up.contents import Contents
from sourcetrace.pipelines.set_up.grid import Grid
from sourcetrace.pipelines.set_up.kept_curvature import Earlier, KeptCurvature
from sourcetrace.pipelines.shared.inputs import Ingested
from sourcetrace.pipelines.shared.manifest import plan_of, segments_of
from sourcetrace.pipelines.shared.set_aside import SettingAside
from sourcetrace.work.team import Team
from sourcetrace.work.unit import Unit

if TYPE_CHECKING:
    from sourcetrace.pipelines.set_up.costs import PlannedCost

_DRAWN = 1024
"""Examples at most whose scores are kept by segment and query."""


@dataclass(frozen=True)
class AuditSetup:
    """What the numerical stages work with.

    Attributes:
        inputs: What the ingest accepted.
        planned: Numbers of examples that are set aside -> what is evaluated without them.
        engine: The training gradients.
        queries: The queries.
        cache: Where the engine keeps gradients.
        attribution: The method and its settings.
        needs: What is held in memory, and which layers at once.
        grid: How the work is cut.
        team: The processes that do it, this one among them.
        set_aside: What takes note of examples that cannot be used.
        contents: What the training examples are.
        kept: Which curvature is taken.
        cost: By the probe with which this process chose the grid; None where it found one.
    """

    inputs: Ingested
    planned: Callable[[tuple[int, ...]], AttributionPlan]
    engine: GradientEngine
    queries: Examples
    cache: GradientCache
    attribution: AttributionParameters
    needs: MemoryNeeds
    grid: Grid
    team: Team
    set_aside: SettingAside
    contents: Contents
    kept: KeptCurvature
    cost: "PlannedCost | None" = None
    _earlier: "dict[str, AuditSetup]" = field(default_factory=dict, init=False)

    @property
    def plan(self) -> AttributionPlan:
        """What is evaluated, without the examples that are known to be set aside."""
        plan = self.planned(self.set_aside.numbers)
        return plan if self.curvature is self else plan.sized_as(self.curvature.plan)

    @property
    def curvature(self) -> "AuditSetup":
        """What names the units of the curvature: this, or the set-up of the data that it is of.

        That one has no example to compute with.
        """
        earlier = self.kept.earlier
        if earlier is None or self.set_aside.numbers:
            return self
        known = earlier.contents.all_inputs
        if known not in self._earlier:
            self._earlier[known] = self._of_earlier(earlier)
        return self._earlier[known]

    @property
    def stands_on(self) -> tuple[tuple[int, ...], str]:
        """What nodes of a run must have alike: who is set aside, and the data of the curvature.

        Numbers, and a digest; empty where it is the curvature of the audit's own data.
        """
        curvature = self.curvature
        own = "" if curvature is self else curvature.contents.all_inputs
        return self.set_aside.numbers, own

    def choose_curvature(self) -> None:
        """Look for a curvature that may be taken as it is, for this process and all others."""
        plan = self.planned(self.set_aside.numbers)
        if plan.uses_curvature and METHODS[self.attribution.method].scoring == "filters":
            self.kept.choose(
                self.contents,
                self.team.ledger,
                self.unit("source_scoring", "", known="", layers=""),
                plan.members[-1].final.id,
                aloud=self.team.rank == 0,
            )

    def _of_earlier(self, data: Earlier) -> "AuditSetup":
        table, segments = data.table, segments_of(self.inputs.manifest)
        training = Examples((), table["example_id"].to_list(), self.engine.training.collate)
        coverage, attribution = self.engine.coverage, self.attribution
        engine = replace(
            self.engine,
            training=training,
            load_weights=self.kept.give_up,
            cache=GradientCache(self.cache.folder),
        )
        return replace(
            self,
            contents=data.contents,
            planned=cache(partial(plan_of, segments, table, training, coverage, attribution)),
            engine=engine,
            kept=KeptCurvature(),
        )

    def is_drawn(self, examples: pl.Series) -> pl.Series:
        """Return of which examples, by name, scores are kept by segment and query.

        They are among those of the curvature, as rows are that are kept with it.
        """
        return examples.is_in(self.curvature._drawn.implode())

    @cached_property
    def _drawn(self) -> pl.Series:
        training, seed = self.engine.training, self.attribution.seed
        every = torch.arange(len(training))
        numbers = training.drawn(every, _DRAWN, seed=seed, purpose="contributions")
        return self.contents.names.gather(numbers.numpy())

    def unit(
        self,
        stage: str,
        name: str,
        *,
        reads: Sequence[Unit] = (),
        cost: float = 1.0,
        **parts: str,
    ) -> Unit:
        """Return a unit of a stage's work.

        Args:
            stage: Its pipeline.
            name: Its place in the stage.
            reads: The units whose files it reads.
            cost: Relative to others' of its phase.
            parts: Digests of what decides its bytes, beside or instead of those of its stage.
        """
        made_of = {
            **self.inputs.unit_parts(stage),
            "examples": self.curvature.contents.all_inputs,
            "grid": digest_of([self.grid.batch_size, self.engine.draws, self.engine.device.type]),
            "set_aside": digest_of(self.set_aside.numbers),
            **parts,
        }
        if reads:
            made_of["reads"] = digest_of([one.identity for one in reads])
        return Unit(stage, name, made_of, cost)
