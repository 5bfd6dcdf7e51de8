"""More full-data runs of a ground truth, by its recipe, for ensembles.

    python benchmarks/train_runs.py --ground-truth DIR --set mnist_early --runs 2 --out DIR2

DIR2 gets a copy of the set with the further runs beside run0, which `benchmarks/lds.py --ensemble`
reads. Checkpoints are saved at the steps of run0's. Sets with stages are not supported.
"""

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
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
    kind = ClassificationGroundTruth if recipe["loss"] == "cross-entropy" else RegressionGroundTruth
    task = kind(folder, range(recipe["queries"]))
    for number in range(first, first + arguments.runs):
        train_run(task, folder / "checkpoints" / f"run{number}", recipe, steps, seed=number)


def train_run(task: Any, folder: Path, recipe: Any, steps: Sequence[int], *, seed: int) -> None:
    """Train one run by the recipe, and save its checkpoints of these steps in a new folder."""
    folder.mkdir(parents=True)

    def save(step: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        if step in steps:
            state = {
                "step": step,
                "model_state_dict": model.state_dict(),
                "optimizer_state_dict": optimizer.state_dict(),
            }
            torch.save(state, folder / f"step_{step:06d}.pt")

    settings = SGDRecipe(
        epochs=recipe["epochs"],
        batch_size=recipe["batch_size"],
        # Beside the optimiser in some recipes, and in it in others.
        learning_rate=(recipe["optimizer"] | recipe)["learning_rate"],
        momentum=recipe["optimizer"]["momentum"],
        weight_decay=recipe["optimizer"]["weight_decay"],
    )
    # nn.Linear's own initialisation is uniform in ±1/√fan-in, weights and biases alike.
    train_with_sgd(task, range(recipe["train_examples"]), settings, seed=seed, after_step=save)


def train_language_run(
    task: Any, folder: Path, recipe: Any, *, seed: int, epochs: int = 0
) -> dict[str, int]:
    """Train one run stage by stage by transformers' Trainer, where it is not yet there.

    Args:
        task: Its model and tokens.
        folder: Gets the last checkpoint of every stage.
        recipe: Of the ground truth.
        seed: Of the model, the order and what is drawn.
        epochs: Of every stage; the recipe's by default.

    Returns:
        Stage -> its last step, counted over the whole training.
    """
    there, tokens, first, ends = folder.exists(), task.train_examples(), 0, {}
    transformers.set_seed(seed)
    model = task.build_model()
    for stage in recipe["stages"]:
        steps = stage["count"] // recipe["batch_size"] * (epochs or stage["epochs"])
        own = [{"input_ids": row, "labels": row} for row in tokens[first:][: stage["count"]]]
        first += stage["count"]
        ends[stage["name"]] = steps + max(ends.values(), default=0)
        arguments = transformers.TrainingArguments(
            output_dir=str(folder / stage["name"]),
            max_steps=steps,
            per_device_train_batch_size=recipe["batch_size"],
            learning_rate=stage["lr"],
            weight_decay=recipe["optimizer"]["weight_decay"],
            warmup_steps=round(steps / 10),
            save_steps=steps,
            logging_steps=8,
            seed=seed,
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
        )
        trainer = transformers.Trainer(model, arguments, train_dataset=own)
        trainer.remove_callback(transformers.PrinterCallback)
        if not there:
            trainer.train()
    return ends


if __name__ == "__main__":
    main()
