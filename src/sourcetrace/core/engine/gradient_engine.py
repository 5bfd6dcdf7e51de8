"""Per-example gradients on demand: from a cache where they fit, recomputed where they do not.

The unit is one block of examples at one evaluation point. One forward pass of it serves the
backward pass with sampled labels (curvature) and the one with given labels (scores), and its
example signals. The cache is only a memo: what it does not hold is computed again, with the
same numbers. A batch that does not fit into memory is run in parts (`core.machine.halving`).
"""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from sourcetrace.core.curvature.covariance import LayerTerms
from sourcetrace.core.engine.blame import UnusableError, blaming, refuse_infinite
from sourcetrace.core.engine.passes import Batch, Passes
from sourcetrace.core.engine.results import (
    BlockCache,
    BlockSignals,
    QueryPasses,
    TrainingPasses,
    join_parts,
    own_rows,
)
from sourcetrace.core.gradients.per_example import LayerGradient, concatenate, of_unit_norm
from sourcetrace.core.layers.discovery import Coverage
from sourcetrace.core.layers.layer import Layer
from sourcetrace.core.machine.halving import Halving
from sourcetrace.core.machine.nested import mean_state, to_dtype
from sourcetrace.core.machine.timing import Timings
from sourcetrace.core.model.examples import Block, EvaluationPoint, Examples
from sourcetrace.core.model.objective import Objective
from sourcetrace.core.model.precision import Precision, products_in

_Result = TypeVar("_Result")

_Unusable = Literal["refused", "set aside", "skipped"]

_FEWEST = 32
"""Examples of a sample however large their gradients are; a mean over fewer says little."""


@dataclass
class _Loaded:
    """The point whose weights the model has, if it has any's."""

    point: str | None = None


@dataclass(kw_only=True, eq=False)
class GradientEngine:
    """Gradients of a task's examples at evaluation points.

    Attributes:
        model: The model, on the device where it runs; its weights are replaced as points are
            visited.
        objective: Forward pass and losses.
        coverage: The attributed layers.
        training: The training examples.
        load_weights: Checkpoint id -> state dict.
        cache: Where blocks may be kept.
        batch_size: Examples a block.
        seed: Of the sampled labels.
        precision: Of the passes.
        draws: How many sampled labels each example has; of kept gradients, the first alone is kept.
        unit_norm: Whether `gradients` divides those of an example by their norm at that point.
        set_aside: Told of training examples that cannot be used, and of the point; raises where
            they may not be left out.
        passes: Passes through the model so far.
        timings: Of the stages so far.
    """

    model: nn.Module
    objective: Objective
    coverage: Coverage
    training: Examples
    load_weights: Callable[[str], Mapping[str, Tensor]]
    cache: BlockCache
    batch_size: int
    seed: int
    precision: Precision = "float32"
    draws: int = 1
    unit_norm: bool = False
    set_aside: Callable[[UnusableError, EvaluationPoint], None] | None = None

    def __post_init__(self) -> None:
        self.model.eval()
        self.device = next(self.model.parameters()).device
        self.dtype = next(p.dtype for p in self.model.parameters() if p.is_floating_point())
        self._loaded = _Loaded()
        self._has_all_layers = True
        self._halving = Halving()
        self.passes = Passes()
        self.timings = Timings(self.device)

    def exactly(self, *, doubled: bool) -> "GradientEngine":
        """Return the same with passes in float32, for `compute` and no cached block.

        Args:
            doubled: Whether they are in float64 instead, of a copy of the model.
        """
        if not doubled:
            return replace(self, precision="float32", set_aside=None)
        collate = self.training.collate
        training = replace(
            self.training, collate=lambda items: to_dtype(collate(items), torch.float64)
        )
        model = copy.deepcopy(self.model).double()
        return replace(self.exactly(doubled=False), model=model, training=training)

    def of_layers(self, layers: Sequence[Layer]) -> "GradientEngine":
        """Return the same for some of the layers alone; the model and all counts are shared."""
        part = copy.copy(self)
        part.coverage = replace(self.coverage, layers=tuple(layers))
        # What it computes is no whole block, which the cache has.
        same = len(layers) == len(self.coverage.layers)
        part._has_all_layers = self._has_all_layers and same
        return part

    @property
    def like(self) -> Tensor:
        """A tensor with the dtype and device of the gradients."""
        return torch.empty(0, dtype=self.dtype, device=self.device)

    def blocks(self) -> list[Block]:
        """Return the blocks of the training examples."""
        return list(self.training.blocks(self.batch_size))

    def rows(self, examples: Examples, point: EvaluationPoint, block: Block) -> Tensor:
        """Return the numbers of a block's examples: of the training's, those needed at a point."""
        if examples is self.training:
            return point.rows(block)
        return block.numbers

    def visits(self, points: Iterable[EvaluationPoint]) -> list[tuple[EvaluationPoint, Block]]:
        """Return every (point, block) with an example whose gradient is needed there."""
        blocks = self.blocks()
        return [(point, block) for point in points for block in blocks if len(point.rows(block))]

    def affordable(self, *, most: int, limit: int, points: int = 1, each: int | None = None) -> int:
        """Return how many examples' gradients to take.

        Args:
            most: Bound on them.
            limit: Bound on the bytes of their gradients.
            points: At how many points they are kept at once.
            each: Bytes of one's; were it dense, if not given.
        """
        if each is None:
            each = sum(layer.size for layer in self.coverage.layers) * self.dtype.itemsize
        return min(most, max(_FEWEST, limit // (each * points)))

    def model_at(self, point: EvaluationPoint) -> nn.Module:
        """Return the model with the weights of `point`, in evaluation mode."""
        if self._loaded.point != point.id:
            states = [self.load_weights(checkpoint) for checkpoint in point.checkpoints]
            self.model.load_state_dict(mean_state(states))
            self._loaded.point = point.id
        return self.model

    def extract(
        self, point: EvaluationPoint, block: Block, *, keep: bool = True, sketched: bool = False
    ) -> TrainingPasses:
        """Run a block's forward pass and both backward passes, and keep what the cache takes.

        Examples that cannot be used are left out, if `set_aside` lets them be; of what is not
        kept, in any case.

        Args:
            point: The weights.
            block: The examples.
            keep: Whether the cache is offered the gradients. One that keeps nothing gets no
                gradients with sampled labels, and nor does the result.
            sketched: Whether the signals have a sketch of what the layers see.

        Raises:
            UnusableError: If no example is left.
        """
        sampled = self.cache.keeps or not keep

        def passes(batch: Batch) -> TrainingPasses:
            part = batch.rows
            return replace(batch, sketched=sketched).training_passes(
                own=point.in_curvature(part),
                seeds=self._seeds(point, part),
                sampled=sampled,
                draws=self.draws,
            )

        rows = point.rows(block)
        unusable: _Unusable = "set aside" if keep else "skipped"
        passed = self._run(
            passes, self.training, point, rows, backward=1 + self.draws, unusable=unusable
        )
        if keep and sampled:
            self.cache.put(point.key(block), passed.tensors())
        own = point.in_curvature(passed.signals.examples)
        return replace(passed, sampled=own_rows(passed.sampled, own))

    def covariances(self, point: EvaluationPoint, block: Block) -> LayerTerms:
        """Return what the block's own examples add to the covariances, by passes of their own.

        As `extract`, without those that cannot be used.
        """
        rows = point.rows(block)

        def passes(batch: Batch) -> LayerTerms:
            return batch.covariances(self._seeds(point, batch.rows), draws=self.draws)

        own = rows[point.in_curvature(rows)]
        return self._run(
            passes, self.training, point, own, backward=self.draws, unusable="set aside"
        )

    def _run(
        self,
        passes: Callable[[Batch], _Result],
        examples: Examples,
        point: EvaluationPoint,
        rows: Tensor,
        *,
        backward: int,
        unusable: _Unusable = "refused",
    ) -> _Result:
        """Run passes of some examples at a point, in parts where memory does not hold all at once.

        Args:
            passes: Of a batch of them.
            examples: The data set.
            point: The weights.
            rows: Numbers of the examples.
            backward: How many backward passes follow the forward one.
            unusable: What becomes of training examples that cannot be used.

        Raises:
            UnusableError: If an example cannot be evaluated, or not to finite numbers.
        """
        model = self.model_at(point)

        def attempt(part: Tensor) -> _Result:
            numbers = part.tolist()
            items = examples.batch(numbers, self.device)

            def alone(place: int) -> Any:
                return examples.batch(numbers[place : place + 1], self.device)

            with products_in(self.precision, self.device):
                layers = self.coverage.layers
                rounded = self.precision == "bfloat16"
                found = passes(Batch(model, self.objective, layers, items, part, alone, rounded))
            # Not before: a batch that did not fit into memory is run again.
            for _ in range(2 if backward and self.coverage.alone else 1):
                self.passes.count(len(part), backward=backward)
            return found

        ours = examples is self.training
        set_aside = self.set_aside if ours and unusable != "skipped" else None
        refused = unusable == "refused" or (unusable == "set aside" and set_aside is None)
        while True:
            try:
                run = blaming(attempt, examples)
                found: _Result = self._halving.run(run, rows, join=join_parts)
                refuse_infinite(found, examples, f"at {point.id}" if ours else "as a query")
            except UnusableError as error:
                if set_aside is not None:
                    set_aside(error, point)
                rows = error.without(rows)
                if refused or not len(rows):
                    raise
            else:
                return found

    def _seeds(self, point: EvaluationPoint, rows: Tensor) -> list[int]:
        purpose = point.draws or point.id
        return self.training.seeds(rows.tolist(), seed=self.seed, purpose=purpose)

    def gradients(self, point: EvaluationPoint, block: Block) -> dict[str, LayerGradient]:
        """Return the gradients of the given labels' loss of `point.rows(block)`, as they score."""
        found = self._given(point, block)
        return of_unit_norm(found) if self.unit_norm else found

    def _given(self, point: EvaluationPoint, block: Block) -> dict[str, LayerGradient]:
        kept = self._kept(point, block, "given")
        if kept is not None:
            return kept
        if self._fills_cache:
            return dict(self.extract(point, block).gradients)
        return self.compute(point, point.rows(block), sampled=False)

    def sampled_gradients(self, point: EvaluationPoint, block: Block) -> dict[str, LayerGradient]:
        """Return the gradients with sampled labels of those that make up the curvature.

        Those of the first draw, then those of the second, and so on.
        """
        kept = self._kept(point, block, "sampled")
        rows = point.rows(block)
        own = point.in_curvature(rows)
        if kept is not None:
            first = own_rows(kept, own)
        elif self._fills_cache:
            first = dict(self.extract(point, block).sampled)
        elif not bool(own.any()):  # one, to have its form
            first = own_rows(self.compute(point, rows[:1], sampled=True), own[:1])
        else:
            first = self.compute(point, rows[own], sampled=True)
        if self.draws == 1 or not bool(own.any()):
            return first
        others = range(1, self.draws)
        return concatenate(
            [first, *(self.compute(point, rows[own], sampled=True, draw=k) for k in others)]
        )

    @property
    def _fills_cache(self) -> bool:
        return self.cache.keeps and self._has_all_layers

    def _kept(
        self, point: EvaluationPoint, block: Block, kind: str
    ) -> dict[str, LayerGradient] | None:
        kept = self.cache.get(point.key(block))
        if kept is None:
            return None
        names = [layer.name for layer in self.coverage.layers]
        found = TrainingPasses.kept(kept, kind, self.device, names)
        # Another process may have left an example out since.
        left_out = len(next(iter(found.values()))) != len(point.rows(block))
        return None if left_out else found

    def compute(
        self, point: EvaluationPoint, rows: Tensor, *, sampled: bool, draw: int = 0
    ) -> dict[str, LayerGradient]:
        """Compute one kind of gradients by one backward pass, past the cache.

        Args:
            point: The weights.
            rows: Numbers of the examples, one batch.
            sampled: Whether of sampled labels, or of the given ones.
            draw: Which of the sampled labels.
        """

        def passes(batch: Batch) -> dict[str, LayerGradient]:
            seeds = self._seeds(point, batch.rows) if sampled else None
            return batch.gradients(seeds, draw=draw)

        return self._run(passes, self.training, point, rows, backward=1)

    def query_gradients(
        self, queries: Examples, point: EvaluationPoint, block: Block
    ) -> QueryPasses:
        """Return measurement gradients and training-loss gradients of query examples."""
        rows = self.rows(queries, point, block)
        return self._run(Batch.query_passes, queries, point, rows, backward=2)

    def query_signals(
        self, queries: Examples, point: EvaluationPoint, block: Block, *, sketched: bool = False
    ) -> BlockSignals:
        """Return what a forward pass tells of query examples, with a sketch or without."""
        rows = self.rows(queries, point, block)

        def signals(batch: Batch) -> BlockSignals:
            return replace(batch, sketched=sketched).signals()

        return self._run(signals, queries, point, rows, backward=0)
