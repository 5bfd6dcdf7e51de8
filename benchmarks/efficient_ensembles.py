"""Ensembles that need no further run, against independent runs at equal serving cost.

    python -m benchmarks.efficient_ensembles --ground-truth DIR --set mnist --folder NEW

k members cost k attributions: runs with seeds of their own; one run under k fixed dropout masks,
trained without dropout or with; k LoRA adapters on one run's trunk, trained for an epoch and
attributed alone. Audited are the last checkpoints of every third of an SGD training, and of every
stage of a language model's. What is trained stays in NEW. A line has the LDS of the whole single
run, of the members alone, and of their mean with its interval.

Source of the cheap kinds: Deng et al. 2024, arXiv 2405.17293.
"""

import argparse
import copy
import json
import logging
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
import transformers
from benchmarks.lds import REFERENCE_QUERIES, ClassificationGroundTruth, LanguageGroundTruth
from benchmarks.machine import describe_machine
from benchmarks.pipeline_run import run_pipeline
from benchmarks.train_runs import train_language_run, train_run
from torch import Tensor, nn

from sourcetrace.checkpoints.folder import CheckpointFolder
from sourcetrace.core.statistics.rank_correlation import rank_correlation
from sourcetrace.core.statistics.retraining import rank_correlation_interval
from sourcetrace.parameters import AttributionParameters

_DROPOUT = 0.1
_RANK = 8
_PLACES = (nn.ReLU, nn.Dropout)
_ADAPTED = (nn.Linear, transformers.pytorch_utils.Conv1D)


class _Mask(nn.Dropout):
    """Dropout in evaluation, too, whose zeros are the same for all examples and calls."""

    def __init__(self, seed: int) -> None:
        super().__init__(_DROPOUT)
        self._seed = seed

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002, torch's name
        generator = torch.Generator().manual_seed(self._seed)
        kept = torch.rand(input.shape[1:], generator=generator) >= self.p
        return input * kept / (1 - self.p)


def _with_dropout(model: nn.Module, make: Callable[[int], nn.Module]) -> nn.Module:
    """Put dropout behind every ReLU, or in the place of what dropout there is."""
    found = [(name, one) for name, one in model.named_modules() if isinstance(one, _PLACES)]
    for number, (name, old) in enumerate(found):
        parent, _, child = name.rpartition(".")
        new = nn.Sequential(old, make(number)) if isinstance(old, nn.ReLU) else make(number)
        setattr(model.get_submodule(parent), child, new)
    return model


def _masked(number: int) -> Callable[[nn.Module], nn.Module]:
    return lambda model: _with_dropout(model, lambda place: _Mask(1000 * number + place))


def _adapted(trunk: Any) -> Callable[[nn.Module], nn.Module]:
    def adapt(model: nn.Module) -> nn.Module:
        model.load_state_dict(trunk)
        targets = [name for name, one in model.named_modules() if isinstance(one, _ADAPTED)]
        options = peft.LoraConfig(
            r=_RANK,
            target_modules=[name for name in targets if name != "lm_head"],
            fan_in_fan_out=hasattr(model, "config"),  # of transformers' Conv1D
        )
        adapted: nn.Module = peft.get_peft_model(model, options)  # type: ignore[arg-type]
        return adapted

    return adapt


@dataclass(frozen=True)
class _Member:
    """One attribution: a model, a run's checkpoints and how many segments they make."""

    task: Any
    checkpoints: CheckpointFolder
    segments: int


class _Set:
    """A ground truth, and the folder where what is trained on it stays."""

    def __init__(self, given: Path, folder: Path) -> None:
        self.folder, self.recipe = folder, json.loads((given / "recipe.json").read_text())
        self.language = "vocab_size" in self.recipe["model"]
        kind = LanguageGroundTruth if self.language else ClassificationGroundTruth
        self.task = kind(given, REFERENCE_QUERIES[given.name])
        run = given / "checkpoints/run0"
        self.audited = sorted(run.glob("*.pt"))[1::2]
        for stage in self.recipe["stages"] or []:
            last = stage["count"] // self.recipe["batch_size"] * stage["epochs"]
            self.audited.append(run / stage["name"] / f"checkpoint-{last}")
        for one in self.audited:
            to = folder / "run0" / one.relative_to(run)
            to.parent.mkdir(parents=True, exist_ok=True)
            if not to.exists():
                (shutil.copytree if one.is_dir() else shutil.copy)(one, to)

    def member(self, name: str, change: Any = None, *, seed: int, epochs: int = 0) -> _Member:
        """Return a run of a changed model, trained first where its folder is not there yet."""
        task, folder = copy.copy(self.task), self.folder / name
        if change is not None:
            task.build_model = lambda: change(self.task.build_model())
        if self.language:
            ends = train_language_run(task, folder, self.recipe, seed=seed, epochs=epochs)
            return _Member(task, CheckpointFolder(folder, ends), len(ends))
        recipe = self.recipe | {"epochs": epochs or self.recipe["epochs"]}
        last = recipe["train_examples"] // recipe["batch_size"] * recipe["epochs"]
        if not folder.exists():
            steps = [last] if epochs else [int(one.stem[5:]) for one in self.audited]
            train_run(task, folder, recipe, steps, seed=seed)
        return _Member(task, CheckpointFolder(folder), len(list(folder.iterdir())))


def _groups(one: _Set, count: int) -> Iterator[tuple[str, _Member, list[_Member]]]:
    """Yield every kind of ensemble: its name, the single whole run, the members."""
    given = one.member("run0", seed=0)
    last = given.checkpoints.files()[-1]
    trunk = given.checkpoints.load(last, given.task.build_model()).state_dict
    masks = range(1, count + 1)
    yield "runs", given, [one.member(f"run{seed}", seed=seed) for seed in range(count)]
    masked = [one.member("run0", _masked(mask), seed=0) for mask in masks]
    yield "masks, trained without dropout", given, masked
    thinned = partial(_with_dropout, make=lambda _: nn.Dropout(_DROPOUT))
    dropout = one.member("dropout", thinned, seed=count)
    masked = [one.member("dropout", _masked(mask), seed=count) for mask in masks]
    yield "masks, trained with dropout", dropout, masked
    change = _adapted(trunk)
    adapters = [one.member(f"lora{seed}", change, seed=seed, epochs=1) for seed in masks]
    yield "LoRA adapters", given, adapters


def main() -> None:
    """Print a table, line by line as they come."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ground-truth", type=Path, required=True)
    parser.add_argument("--set", default="mnist", choices=("mnist", "gpt_two_stage"))
    parser.add_argument("--folder", type=Path, required=True, help="where trained runs stay")
    parser.add_argument("--methods", nargs="+", default=["influence", "scaled_source"])
    parser.add_argument("--members", type=int, default=3)
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    print(describe_machine(), flush=True)
    given = arguments.ground_truth / arguments.set
    ground_truth = _Set(given, arguments.folder / arguments.set)
    outcomes = np.load(given / "outcomes.npz")
    subsets = torch.from_numpy(outcomes["subsets"]).double()
    measured = torch.from_numpy(outcomes["measurements"].mean(0))
    measured = measured[:, list(REFERENCE_QUERIES[arguments.set])]
    for method in arguments.methods:
        for kind, whole, members in _groups(ground_truth, arguments.members):
            found = [_predictions(method, each, subsets) for each in (whole, *members)]
            mean = torch.stack(found[1:]).mean(0)
            low, high = rank_correlation_interval(mean, measured)
            single, *each, ensemble = (
                f"{rank_correlation(one, measured).mean():.3f}" for one in (*found, mean)
            )
            figures = f"{single} | {', '.join(each)} | {ensemble} | {low:.3f} to {high:.3f}"
            print(f"| {method} | {kind} | {figures} |", flush=True)


def _predictions(method: str, member: _Member, subsets: Tensor) -> Tensor:
    """Return minus the sum of a subset's scores, [subsets, Q]: they are of removals."""
    language = isinstance(member.task, LanguageGroundTruth)
    with tempfile.TemporaryDirectory() as folder:
        run = run_pipeline(
            member.task,
            member.checkpoints,
            AttributionParameters(method=method, device="cpu"),
            member.segments,
            batch_size=64 if language else 1000,
            cache="disk" if language else "memory",
            cache_folder=Path(folder),
        )
    return -(subsets @ run.scores.double().T)


if __name__ == "__main__":
    main()
