"""More full-data runs of a ground truth, by its recipe, for ensembles.

    python benchmarks/train_runs.py --ground-truth DIR --set mnist_early --runs 2 --out DIR2

DIR2 gets a copy of the set with the further runs beside run0, which `benchmarks/lds.py --ensemble`
reads. Checkpoints are saved at the steps of run0's. Sets with stages are not supported.
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from benchmarks.lds import ClassificationGroundTruth, RegressionGroundTruth
from torch import nn

from sourcetrace.tasks.training import SGDRecipe, train_with_sgd


def main() -> None:
    """Copy the set and train."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ground-truth", type=Path, required=True)
    parser.add_argument("--set", required=True)
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    folder = arguments.out / arguments.set
    shutil.copytree(arguments.ground_truth / arguments.set, folder, dirs_exist_ok=True)
    recipe = json.loads((folder / "recipe.json").read_text())
    if recipe["stages"]:
        parser.error(f"{arguments.set} has stages")
    steps = [
        torch.load(file, weights_only=True)["step"]
        for file in sorted((folder / "checkpoints" / "run0").glob("*.pt"))
    ]
    first = 1 + max(int(run.name[3:]) for run in (folder / "checkpoints").glob("run*"))
    for number in range(first, first + arguments.runs):
        _train(folder, recipe, steps, number)


def _train(folder: Path, recipe: Any, steps: list[int], number: int) -> None:
    """Train one run with its number as the seed, and save its checkpoints."""
    kind = ClassificationGroundTruth if recipe["loss"] == "cross-entropy" else RegressionGroundTruth
    task: Any = kind(folder, range(recipe["queries"]))
    run = folder / "checkpoints" / f"run{number}"
    run.mkdir()

    def save(step: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        if step in steps:
            state = {
                "step": step,
                "model_state_dict": model.state_dict(),
                "optimizer_state_dict": optimizer.state_dict(),
            }
            torch.save(state, run / f"step_{step:06d}.pt")

    settings = SGDRecipe(
        epochs=recipe["epochs"],
        batch_size=recipe["batch_size"],
        learning_rate=recipe["learning_rate"],
        momentum=recipe["optimizer"]["momentum"],
        weight_decay=recipe["optimizer"]["weight_decay"],
    )
    # nn.Linear's own initialisation is uniform in ±1/√fan-in, weights and biases alike.
    train_with_sgd(task, range(recipe["train_examples"]), settings, seed=number, after_step=save)


if __name__ == "__main__":
    main()
