"""Gradients of a few examples, spread evenly, where a run measures itself."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sourcetrace.core.curvature.covariance import RunningCovariances
from sourcetrace.core.engine.blame import UnusableError
from sourcetrace.core.engine.gradient_engine import GradientEngine
from sourcetrace.core.engine.results import TrainingPasses
from sourcetrace.core.gradients.per_example import LayerGradient, concatenate
from sourcetrace.core.machine.timing import Timings
from sourcetrace.core.model.examples import Block, EvaluationPoint, spread

_PROBE = 8
"""Examples that say what one takes."""


def probe_point(
    engine: GradientEngine, point: EvaluationPoint, *, examples: int = _PROBE
) -> TrainingPasses:
    """Return what the passes of a few examples give, as one batch; nothing is cached.

    Of examples that cannot be used others take the place, where none of the few is left.
    """
    left = point.examples
    while True:
        rows = spread(left, examples)
        part = replace(point, examples=rows, curvature_examples=rows)
        try:
            return engine.extract(part, Block(0, len(engine.training)), keep=False)
        except UnusableError:
            left = left[~torch.isin(left, rows)]
            if not len(left):
                raise


@dataclass(frozen=True)
class TimedProbe:
    """What an example takes, as a batch of the run took it.

    Attributes:
        passes: Seconds of a forward and two backward passes of an example.
        covariances: Seconds of adding an example to the covariances.
        extraction: What a few examples gave.
    """

    passes: float
    covariances: float
    extraction: TrainingPasses

    @classmethod
    def of(cls, engine: GradientEngine, point: EvaluationPoint) -> "TimedProbe":
        """Time a batch, behind a few examples that warm up."""
        extraction = probe_point(engine, point)
        watch = Timings(engine.device)
        with watch.timed("passes"):
            timed = probe_point(engine, point, examples=engine.batch_size)
        for name, terms in timed.covariances.items():  # the sums of all layers may not fit
            # The first batch makes the sums that later ones are added to.
            running = RunningCovariances({name: terms})
            running.sums()
            with watch.timed("covariances"):
                running.add({name: terms})
                running.sums()
        count = len(timed.signals.examples)
        return cls(
            watch.seconds["passes"] / count, watch.seconds["covariances"] / count, extraction
        )


def one_thread_gain(engine: GradientEngine, point: EvaluationPoint) -> float:
    """Return how many times as fast a batch is with one thread as with those that are set.

    The number of threads is left as it was; where it is one, or off the CPU, the answer is 1.
    """
    threads = torch.get_num_threads()
    if threads == 1 or engine.device.type != "cpu":
        return 1.0
    watch = Timings(engine.device)
    try:
        for count in (threads, 1):
            torch.set_num_threads(count)
            probe_point(engine, point)
            with watch.timed(str(count)):
                probe_point(engine, point, examples=engine.batch_size)
    finally:
        torch.set_num_threads(threads)
    return watch.seconds[str(threads)] / watch.seconds["1"]


def sample_gradients(
    engine: GradientEngine, point: EvaluationPoint, examples: Tensor, *, sampled: bool = False
) -> dict[str, LayerGradient]:
    """Return the gradients of these examples alone; nothing is cached.

    Args:
        engine: Whose model it is.
        point: The weights.
        examples: Their numbers.
        sampled: Whether of sampled labels, every draw of them, or of the given ones.
    """
    parts = torch.split(examples, engine.batch_size)
    draws = range(engine.draws if sampled else 1)
    return concatenate(
        [
            engine.compute(point, rows, sampled=sampled, draw=draw)
            for draw in draws
            for rows in parts
        ]
    )
