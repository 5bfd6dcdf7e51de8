"""Plants every kind of problem in the digits, audits them, and says what was found.

Of scikit-learn's digits, 80 % to train on: 50 labels are exchanged, 30 scans get a noisy copy of
another label, 20 queries a noisy copy in the training data, and all nines but six are left out. The
demo's network is trained on them, and `kedro run --pipelines audit` audits it in a new folder.
What is forgotten is planted in `tests/audit/issues`, as one training does not forget. Then 100
scans are copied with more and less noise, and near-duplicates are looked for at several cosines.

    python -m benchmarks.planted_issues /tmp/planted
"""

import argparse
import copy
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

from sourcetrace.audit.groups.near_duplicates import near_pairs
from sourcetrace.core.gradients.capture import ForwardPass
from sourcetrace.core.gradients.sketches import sketches
from sourcetrace.core.layers.discovery import find_layers
from sourcetrace.schemas import DigitsTrainingSet
from sourcetrace.tasks import SGDRecipe, train_with_sgd
from sourcetrace.tasks.digits import DigitsTask

_REPOSITORY = Path(__file__).parents[1]
_RECIPE = SGDRecipe(epochs=15, batch_size=32, learning_rate=0.02, momentum=0.9, weight_decay=1e-4)
_CHECKPOINTS = 6
_COPIES = 50
_NOISE = 0.03
_NOISES = (0.02, 0.05, 0.1)
_COSINES = (0.98, 0.99, 0.995)


def main(arguments: Sequence[str] | None = None) -> None:
    """Plant, train, audit and print a row an issue."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="a new folder for the project")
    parser.add_argument("--seed", type=int, default=5, help="of what is planted")
    asked = parser.parse_args(arguments)
    for name in ("conf", "src"):
        shutil.copytree(_REPOSITORY / name, asked.folder / name)
    shutil.copy(_REPOSITORY / "pyproject.toml", asked.folder)
    training, queries, planted = plant(asked.seed)
    train(training, queries, asked.folder / "data/01_raw")
    subprocess.run(
        [sys.executable, "-m", "kedro", "run", "--pipelines", "audit"], cwd=asked.folder, check=True
    )
    found = pl.read_parquet(asked.folder / "data/08_reporting/example_issues.parquet")
    print("| issue | planted | flagged | precision | recall |\n| --- | --- | --- | --- | --- |")
    for issue, names in planted.items():
        flagged = set(found.filter(pl.col("issue") == issue, pl.col("flagged"))["example_id"])
        right = len(flagged & names)
        shares = f"{right / max(1, len(flagged)):.3f} | {right / len(names):.3f}"
        print(f"| {issue} | {len(names)} | {len(flagged)} | {shares} |")
    find_copies(DigitsTask(training, queries), asked.folder / "data/01_raw/checkpoints", asked.seed)


def plant(seed: int) -> tuple[pl.DataFrame, pl.DataFrame, dict[str, set[str]]]:
    """Return the training set, the queries, and the ids of what is planted by issue."""
    digits = load_digits()
    pixels, target = (digits.data / 16).astype(np.float32), digits.target
    rows, held = train_test_split(
        np.arange(len(pixels)), test_size=0.2, stratify=target, random_state=0
    )
    random = np.random.default_rng(seed)
    nines = random.permutation(rows[target[rows] == 9])  # noqa: PLR2004
    rows = random.permutation(np.setdiff1d(rows, nines[6:]))
    labels = target[rows].copy()
    free = random.permutation(np.flatnonzero(labels != 9))  # noqa: PLR2004
    wrong, copied = free[:50], free[50:80]
    labels[wrong] = (labels[wrong] + random.integers(1, 10, 50)) % 10
    others = (labels[copied] + random.integers(1, 10, 30)) % 10
    leaking = random.choice(held, 20, replace=False)

    def noisy(scans: np.ndarray) -> np.ndarray:
        return np.clip(scans + random.normal(0, _NOISE, scans.shape), 0, 1).astype(np.float32)

    def table(names: list[str], scans: np.ndarray, given: np.ndarray) -> pl.DataFrame:
        values = {"example_id": names, "pixels": scans, "label": given.tolist()}
        return pl.DataFrame(values, schema_overrides=DigitsTrainingSet.columns())

    ids = [f"digit-{row:04d}" for row in rows]
    copies = [f"copy-{ids[place]}" for place in copied]
    leaks = [f"leak-{row:04d}" for row in leaking]
    training = table(
        [*ids, *copies, *leaks],
        np.concatenate([pixels[rows], noisy(pixels[rows][copied]), noisy(pixels[leaking])]),
        np.concatenate([labels, others, target[leaking]]),
    )
    queries = table([f"digit-{row:04d}" for row in held], pixels[held], target[held])
    return (
        training,
        queries,
        {
            "label": {ids[place] for place in wrong} | set(copies),
            "conflicting_duplicate": {ids[place] for place in copied} | set(copies),
            "leakage": set(leaks),
            "unsupported_slice": set(queries.filter(label=9)["example_id"]),
        },
    )


def train(training: pl.DataFrame, queries: pl.DataFrame, folder: Path) -> None:
    """Write the demo's files and the checkpoints of a training on these data."""
    (folder / "digits").mkdir(parents=True)
    (folder / "checkpoints").mkdir()
    training.write_parquet(folder / "digits/training_set.parquet")
    queries.write_parquet(folder / "digits/query_set.parquet")
    (folder / "digits/recipe.json").write_text(json.dumps(asdict(_RECIPE)))
    steps = _RECIPE.epochs * (training.height // _RECIPE.batch_size)
    wanted = {round(steps * place / _CHECKPOINTS) for place in range(1, _CHECKPOINTS + 1)}

    def keep(step: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        if step in wanted:
            state = {
                "step": step,
                "model_state_dict": copy.deepcopy(model.state_dict()),
                "optimizer_state_dict": copy.deepcopy(optimizer.state_dict()),
            }
            torch.save(state, folder / f"checkpoints/step_{step:06d}.pt")

    task = DigitsTask(training, queries)
    train_with_sgd(task, range(training.height), _RECIPE, seed=0, after_step=keep)


def find_copies(task: DigitsTask, checkpoints: Path, seed: int) -> None:
    """Print recall and precision of near-duplicates by noise, a row a cosine."""
    model = task.build_model()
    state = torch.load(max(checkpoints.glob("*.pt")), weights_only=True)
    model.load_state_dict(state["model_state_dict"])
    # Without the copies that are planted already.
    scans = task.train_examples().tensors[0][:-_COPIES]
    layers = find_layers(model, lambda: model(scans[:2]), examples=2).layers
    random = np.random.default_rng(seed)
    chosen = random.choice(len(scans), 100, replace=False)
    names = [str(place) for place in range(len(scans) + 100)]
    digests = pl.DataFrame({"example_id": names, "input_digest": names})
    rows: dict[float, list[str]] = {cosine: [] for cosine in _COSINES}
    for noise in _NOISES:
        copies = (
            scans[chosen] + noise * torch.from_numpy(random.normal(size=(100, 1, 8, 8))).float()
        )
        both = torch.cat([scans, copies.clip(0, 1)])
        captured = ForwardPass(model, layers, partial(model, both), examples=len(both))
        values = sketches(captured.inputs(), layers).half().float().numpy()
        content = pl.DataFrame({"side": "training", "example_id": names, "sketch": values})
        planted = {(str(one), str(len(scans) + place)) for place, one in enumerate(chosen)}
        for cosine, cells in rows.items():
            pairs = near_pairs(digests, content, similarity=cosine).select("first", "second")
            found = {pair for pair in pairs.iter_rows() if int(pair[0]) < int(pair[1])}
            right = len(found & planted)
            cells.append(f"{right / 100:.2f}, {right / max(1, len(found)):.2f}")
    print("| cosine |", " | ".join(f"σ {noise}: recall, precision" for noise in _NOISES), "|")
    for cosine, cells in rows.items():
        print("|", cosine, "|", " | ".join(cells), "|")


if __name__ == "__main__":
    main()
