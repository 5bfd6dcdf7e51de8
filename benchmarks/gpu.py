"""The numerical stages on a device: seconds, and the share of the measured multiplication rate.

    python -m benchmarks.gpu [--networks mlp decoder] [--examples N] [--queries Q] [--tokens S]
    python -m benchmarks.gpu --device cpu --small

Needs torch and sourcetrace.core alone. Stages: capture (one forward and two backward passes),
covariances, eigendecomposition, corrected eigenvalues, queries (their gradients, filtered) and
scores; an influence function of one checkpoint with random weights, on random data. CUDA events
time them, without the reading of data; medians over --repeats after --warm-up whole runs.

A stage's share is its operations over its seconds, divided by the rate of a large product measured
in the same process. Operations are those of the products that torch reports; a decomposition has
none that are counted.

Not yet run on a GPU: only the CPU path is tested.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812, the name everybody reads
from torch import Tensor, nn

# Run as a file, Python looks for modules beside it and not in the repository's root.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.decoder import Decoder, DecoderShape
from benchmarks.device_timer import DeviceTimer, matrix_multiply_rates
from benchmarks.machine import describe_machine
from benchmarks.workloads import Workload, build_network, draw_labels, margin

from sourcetrace.core.curvature.blocks import CurvatureBlock, EigenBasis
from sourcetrace.core.curvature.covariance import RunningCovariances
from sourcetrace.core.curvature.covariance_terms import CovarianceTerms
from sourcetrace.core.engine.gradient_engine import GradientEngine
from sourcetrace.core.gradients.capture import ForwardPass
from sourcetrace.core.gradients.per_example import per_example_gradient
from sourcetrace.core.layers.discovery import find_layers
from sourcetrace.core.methods.preparation import QueryPreparation, ScoreSettings
from sourcetrace.core.methods.scorers import MeanScorer
from sourcetrace.core.model.examples import Block, EvaluationPoint, Examples
from sourcetrace.core.model.precision import Precision, products_in
from sourcetrace.core.plan.plan import AttributionPlan
from sourcetrace.core.training.segments import CheckpointRecord, partition

CAPTURE, COVARIANCES, EIGENDECOMPOSITION = "capture", "covariances", "eigendecomposition"
CORRECTED_EIGENVALUES, QUERIES, SCORES = "corrected eigenvalues", "queries", "scores"
STAGES = (CAPTURE, COVARIANCES, EIGENDECOMPOSITION, CORRECTED_EIGENVALUES, QUERIES, SCORES)

_SMALL_DECODER = DecoderShape(layers=2, width=16, heads=2, vocabulary=64)


class Objective:
    """Cross-entropy and the margin; of sequences, the mean over their positions."""

    def forward(self, model: nn.Module, batch: Any) -> Tensor:
        """Return logits, [B, C] or [B, S, C]."""
        return model(batch[0])

    def train_loss(self, outputs: Tensor, batch: Any) -> Tensor:
        """Return the cross-entropy of the given labels, [B]."""
        return _by_example(outputs, batch[1], lambda *one: F.cross_entropy(*one, reduction="none"))

    def sampled_loss(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        """Return that of drawn labels, [B]; drawn on the device, not by example."""
        labels = draw_labels(outputs.flatten(0, -2)).reshape(outputs.shape[:-1])
        return self.train_loss(outputs, (None, labels))

    def measurement(self, outputs: Tensor, batch: Any) -> Tensor:
        """Return the margin, [B]."""
        return _by_example(outputs, batch[1], margin)


class OneBlock:
    """A cache of the last block, so that scoring is timed without the passes before it."""

    keeps = True

    def __init__(self) -> None:
        self._kept: tuple[str, Mapping[str, Tensor]] = ("", {})

    def get(self, key: str) -> Mapping[str, Tensor] | None:
        """Return the block if it is the last."""
        return self._kept[1] if self._kept[0] == key else None

    def put(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep a block and forget the one before."""
        self._kept = (key, tensors)


@dataclass(frozen=True)
class Case:
    """A network with data.

    Attributes:
        name: As printed.
        model: With random weights.
        training, queries: Random examples.
        batch_size: Examples a forward pass.
        precision: Of passes and products.
    """

    name: str
    model: nn.Module
    training: Examples
    queries: Examples
    batch_size: int
    precision: Precision = "float32"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table a network."""
    given = _parse(arguments)
    device = torch.device(given.device)
    torch.manual_seed(0)
    print(describe_machine())
    if device.type == "cuda":
        print(torch.cuda.get_device_name(device))
    rates = matrix_multiply_rates(device, size=given.matrix_size)
    for name, rate in rates.items():
        print(f"{name}: {rate / 1e12:.3f} TFLOP/s ({given.matrix_size} × {given.matrix_size})")
    for name in given.networks:
        made = mlp_case(given, device) if name == "mlp" else decoder_case(given, device)
        case = replace(made, precision=given.precision)
        print(f"\n{describe(case)}; products in {given.precision}")
        for line in measure(case, device, rates, repeats=given.repeats, warm_up=given.warm_up):
            print(line)


def measure(
    case: Case, device: torch.device, rates: Mapping[str, float], *, repeats: int, warm_up: int
) -> list[str]:
    """Run a case and return the lines of its table.

    Args:
        case: What to run.
        device: Where its model is.
        rates: Number format -> operations a second, to take shares of.
        repeats: Runs that are timed.
        warm_up: Runs before them.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    for _ in range(warm_up):
        run_stages(case, device, DeviceTimer(device))
    runs = []
    for _ in range(repeats):
        timer = DeviceTimer(device)
        run_stages(case, device, timer)
        runs.append(timer.seconds())
    counter = DeviceTimer(device, count=True)
    run_stages(case, device, counter)
    operations = counter.operations()
    shares = "".join(f"{f'of {name}':>13}" for name in rates)
    lines = [f"{'stage':<24}{'seconds':>10}{'range':>22}{'GFLOP':>12}{shares}"]
    for stage in STAGES:
        seconds = [run[stage] for run in runs]
        middle, count = median(seconds), operations[stage]
        cells = (
            f"{count / middle / rate:>13.1%}" if count else f"{'':>13}" for rate in rates.values()
        )
        spread = f"{min(seconds):.4f} to {max(seconds):.4f}"
        lines.append(f"{stage:<24}{middle:>10.4f}{spread:>22}{count / 1e9:>12.3f}{''.join(cells)}")
    if device.type == "cuda":
        lines.append(
            f"peak device memory {torch.cuda.max_memory_allocated(device) / 2**30:.2f} GiB"
        )
    return lines


def run_stages(case: Case, device: torch.device, timer: DeviceTimer) -> Tensor:
    """Run every stage once over all examples, and return the scores, [Q, N].

    Args:
        case: What to run.
        device: Where its model is.
        timer: Measures the stages.
    """
    with products_in(case.precision, device):
        return _run_stages(case, device, timer)


def _run_stages(case: Case, device: torch.device, timer: DeviceTimer) -> Tensor:
    objective = Objective()
    state = {name: value.clone() for name, value in case.model.state_dict().items()}
    probe = case.training.batch([0, 1], device)
    engine = GradientEngine(
        model=case.model,
        objective=objective,
        coverage=find_layers(case.model, lambda: objective.forward(case.model, probe), examples=2),
        training=case.training,
        load_weights=lambda _: state,
        cache=OneBlock(),
        batch_size=case.batch_size,
        seed=0,
        precision=case.precision,
    )
    record = CheckpointRecord("final", 1, "stage", learning_rate=1, momentum=0, weight_decay=0)
    count = len(case.training)
    plan = AttributionPlan.of("influence", partition([record], 1), {"stage": torch.arange(count)})
    point = plan.points[0]
    blocks = _fit(engine, point, timer)
    with timer.stage(QUERIES):
        settings = ScoreSettings(precision=case.precision)
        preparation = QueryPreparation("influence", engine, case.queries, settings)
        scorer = MeanScorer.of(preparation, plan, [blocks], higher_is_better=True)
    found = []
    for block in engine.blocks():
        engine.extract(point, block)  # into the cache; the same passes are timed as capture
        with timer.stage(SCORES):
            found.append(scorer.scores(block, self_influence=False).shares.sum(0)[:-1])
    return torch.cat(found, dim=1)


def _fit(
    engine: GradientEngine, point: EvaluationPoint, timer: DeviceTimer
) -> dict[str, CurvatureBlock]:
    """Return EK-FAC of every layer."""
    layers = engine.coverage.layers
    running = RunningCovariances()
    for block in engine.blocks():
        with timer.stage(CAPTURE):
            inputs, gradients = _capture(engine, point, block)
        with timer.stage(COVARIANCES):
            running.add(
                {
                    layer.name: [
                        CovarianceTerms.of(layer, inputs[layer.name], gradients[layer.name])
                    ]
                    for layer in layers
                }
            )
    with timer.stage(COVARIANCES):
        covariances = running.sums()
    with timer.stage(EIGENDECOMPOSITION):
        bases = {
            name: EigenBasis.of(*sums.compute(), dtype=engine.dtype)
            for name, sums in covariances.items()
        }
    squares = {
        layer.name: torch.zeros(layer.shape, dtype=torch.float64, device=engine.device)
        for layer in layers
    }
    for block in engine.blocks():
        inputs, gradients = _capture(engine, point, block)
        with timer.stage(CORRECTED_EIGENVALUES):
            for layer in layers:
                name, basis = layer.name, bases[layer.name]
                one = per_example_gradient(inputs[name], gradients[name], width=layer.inputs)
                squares[name] += one.rotated_squares(basis.inputs, basis.outputs).double()
    count = len(engine.training)
    return {
        name: CurvatureBlock(bases[name], (total / count).to(engine.dtype))
        for name, total in squares.items()
    }


def _capture(
    engine: GradientEngine, point: EvaluationPoint, block: Block
) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Return layer inputs and the output gradients of drawn labels, after both backward passes."""
    objective = engine.objective
    model = engine.model_at(point)
    index = range(block.start, block.stop)
    batch = engine.training.batch(index, engine.device)
    captured = ForwardPass(
        model,
        engine.coverage.layers,
        lambda: objective.forward(model, batch),
        examples=len(block),
    )
    inputs = captured.inputs()
    drawn = objective.sampled_loss(captured.outputs, torch.Generator())
    gradients = captured.output_gradients(drawn, last=False)
    captured.output_gradients(objective.train_loss(captured.outputs, batch), last=True)
    return inputs, gradients


def mlp_case(given: argparse.Namespace, device: torch.device) -> Case:
    """Return an MLP with three linear layers."""
    widths = (24, 16, 12, 10) if given.small else (784, 2048, 2048, 10)
    count = given.examples or (32 if given.small else 20000)
    queries = given.queries or (4 if given.small else 200)
    workload = Workload("mlp", widths, count, queries, epochs=0, checkpoints=0)
    sides = [
        (torch.randn(size, widths[0]), torch.randint(widths[-1], (size,)))
        for size in (count, queries)
    ]
    size = given.batch_size or (8 if given.small else 2000)
    name = f"MLP {'–'.join(map(str, widths))}"
    return _case(name, build_network(workload), sides, size, device)


def decoder_case(given: argparse.Namespace, device: torch.device) -> Case:
    """Return a decoder that predicts every next token."""
    shape = _SMALL_DECODER if given.small else DecoderShape()
    tokens = given.tokens or (8 if given.small else 512)
    count = given.examples or (8 if given.small else 64)
    queries = given.queries or (2 if given.small else 8)
    sides = []
    for size in (count, queries):
        drawn = torch.randint(shape.vocabulary, (size, tokens + 1))
        sides.append((drawn[:, :-1], drawn[:, 1:]))
    size = given.batch_size or (4 if given.small else 8)
    name = f"decoder of {shape.layers} layers, width {shape.width}, {tokens} tokens"
    return _case(name, Decoder(shape), sides, size, device)


def describe(case: Case) -> str:
    """Return the case in a line."""
    attributed = sum(one.numel() for one in case.model.parameters() if one.requires_grad)
    return (
        f"{case.name}: {attributed / 1e6:.2f} million attributed parameters, "
        f"N = {len(case.training)}, Q = {len(case.queries)}, batches of {case.batch_size}"
    )


def _case(
    name: str,
    model: nn.Module,
    sides: Sequence[tuple[Tensor, Tensor]],
    batch_size: int,
    device: torch.device,
) -> Case:
    training, queries = (
        Examples(
            list(zip(inputs, labels, strict=True)),
            [str(i) for i in range(len(inputs))],
            torch.utils.data.default_collate,
        )
        for inputs, labels in sides
    )
    return Case(name, model.to(device).eval(), training, queries, batch_size)


def _by_example(outputs: Tensor, labels: Tensor, of: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Return `of` rows of logits, averaged over an example's positions, [B]."""
    values = of(outputs.flatten(0, -2), labels.flatten())
    return values.reshape(len(outputs), -1).mean(1)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--networks", nargs="+", choices=("mlp", "decoder"), default=("mlp", "decoder")
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--examples", type=int, help="N; 20000 for mlp, 64 for decoder")
    parser.add_argument("--queries", type=int, help="Q; 200 for mlp, 8 for decoder")
    parser.add_argument("--tokens", type=int, help="of a sequence; 512")
    parser.add_argument("--batch-size", type=int, help="2000 for mlp, 8 for decoder")
    parser.add_argument("--precision", choices=("float32", "tf32"), default="float32")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--warm-up", type=int, default=1)
    parser.add_argument("--matrix-size", type=int, help="of the product whose rate is measured")
    parser.add_argument("--small", action="store_true", help="tiny networks and data, as a trial")
    given = parser.parse_args(arguments)
    if given.matrix_size is None:
        given.matrix_size = 128 if given.small else 8192
    return given


if __name__ == "__main__":
    main()
