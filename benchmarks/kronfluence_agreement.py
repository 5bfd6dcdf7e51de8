"""Do our influence scores agree with kronfluence's?

    python -m benchmarks.kronfluence_agreement [--python PYTHON]

Small networks in float64, the same weights, examples and damping. Both take the empirical Fisher
matrix, whose labels are the given ones, so that no draw differs. PYTHON has kronfluence; without it
a virtual environment is made in a temporary folder, which sees this interpreter's packages (torch
among them) and adds kronfluence 1.0.1.
"""

import argparse
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch
from benchmarks.environments import REPOSITORY, make_environment
from benchmarks.small_networks import INPUTS, build_model
from rich.console import Console
from rich.table import Table
from tests.tiny import fit_segment
from torch import Tensor, nn

from sourcetrace.core.curvature.covariance import RunningCovariances
from sourcetrace.core.engine.gradient_engine import GradientEngine
from sourcetrace.core.layers.discovery import find_layers
from sourcetrace.core.methods.preparation import QueryPreparation
from sourcetrace.core.methods.scorers import MeanScorer
from sourcetrace.core.model.examples import Examples
from sourcetrace.core.plan.plan import AttributionPlan
from sourcetrace.core.training.segments import CheckpointRecord, partition
from sourcetrace.tasks import RegressionTask

TRAIN, QUERIES = 64, 8
DAMPING = 1e-3


class EmpiricalFisher(RegressionTask):
    """Half the squared error; the "sampled" labels are the given ones."""

    def forward(self, model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
        """Return predictions and the given labels."""
        return model(batch[0]), batch[1]

    def train_loss(self, outputs: Any, batch: Any) -> Tensor:
        """Return the squared error, [B]."""
        return super().train_loss(outputs[0], batch)

    def sampled_loss(self, outputs: Any, generator: torch.Generator) -> Tensor:
        """Return the loss of the given labels, [B]."""
        return super().train_loss(outputs[0], outputs)

    def describe(self, outputs: Any, batch: Any) -> dict[str, list[Any]]:
        """Return the predictions as text."""
        return super().describe(outputs[0], batch)


class NoCache:
    """Everything is computed again."""

    keeps = False

    def get(self, key: str) -> None:
        """Return nothing."""
        return None

    def put(self, key: str, tensors: Any) -> None:
        """Keep nothing."""


def main() -> None:
    """Print the difference of the scores of each network."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", type=Path, help="an interpreter with kronfluence")
    arguments = parser.parse_args()
    table = Table(title=f"{QUERIES} queries × {TRAIN} examples, float64, λ = {DAMPING:g}")
    for heading in ("network", "parameters", "largest score", "relative difference"):
        table.add_column(heading)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        python = arguments.python or make_environment(folder / "environment", "kronfluence==1.0.1")
        for kind in INPUTS:
            table.add_row(kind, *_compare(kind, folder, python))
    Console(highlight=False).print(table)


def _compare(kind: str, folder: Path, python: Path) -> tuple[str, str, str]:
    generator = torch.Generator().manual_seed(0)
    scores = folder / kind
    scores.mkdir()

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    model = build_model(kind)
    state = {key: 0.5 * normal(*value.shape) for key, value in model.state_dict().items()}
    sides = {
        side: [normal(count, *INPUTS[kind]), normal(count)]
        for side, count in (("train", TRAIN), ("query", QUERIES))
    }
    torch.save({"state": state, **sides}, scores / "case.pt")
    command = [python, "-m", "benchmarks.kronfluence_scores", scores, kind, str(DAMPING)]
    subprocess.run(command, check=True, capture_output=True, cwd=REPOSITORY)
    # Theirs are sums over examples' gradients, ours the effect on a mean loss: 1/N apart.
    theirs = torch.load(scores / "scores.pt", weights_only=True).double() / TRAIN
    ours = _scores(model, state, sides)
    largest = float(theirs.abs().max())
    difference = float((ours - theirs).abs().max()) / largest
    size = sum(value.numel() for value in state.values())
    return str(size), f"{largest:.3g}", f"{difference:.2g}"


def _scores(model: nn.Module, state: dict[str, Tensor], sides: dict[str, list[Tensor]]) -> Tensor:
    """Return our influence scores, [Q, N]."""
    task = EmpiricalFisher()
    train, queries = (
        Examples(
            list(zip(*tensors, strict=True)),
            [f"{side}{i}" for i in range(len(tensors[1]))],
            task.collate,
        )
        for side, tensors in sides.items()
    )
    engine = GradientEngine(
        model=model,
        objective=task,
        coverage=find_layers(model, lambda: model(sides["train"][0][:2])),
        training=train,
        load_weights=lambda _: state,
        cache=NoCache(),
        batch_size=16,
        seed=0,
    )
    record = CheckpointRecord("final", 1, "stage", learning_rate=1, momentum=0, weight_decay=0)
    plan = AttributionPlan.of(
        "influence",
        partition([record], 1),
        {"stage": torch.arange(TRAIN)},
        damping=DAMPING,
    )
    running = {point.id: RunningCovariances() for point in plan.points}
    for point, block in engine.visits(plan.points):
        running[point.id].add(engine.extract(point, block).covariances)
    covariances = {name: one.sums() for name, one in running.items()}
    curvatures = [fit_segment(engine, planned, covariances) for planned in plan.segments]
    scorer = MeanScorer.of(
        QueryPreparation("influence", engine, queries), plan, curvatures, higher_is_better=False
    )
    return torch.cat(
        [
            scorer.scores(block, self_influence=False).shares.sum(0)[:-1]
            for block in engine.blocks()
        ],
        dim=1,
    )


if __name__ == "__main__":
    main()
