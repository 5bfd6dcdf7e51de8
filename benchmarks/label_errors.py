"""How well suggestions find labels that were made wrong on purpose, beside other orders.

    python -m benchmarks.label_errors --data DIR [--seeds 3] [--sets NAME…] [--folder DIR]

DIR holds MNIST's test part, parkinsons_updrs.csv and SST-2 (`noisy_sets.py` names the files).
Every set and seed is trained, audited by the nodes of `kedro run`, and put into the folder; what is
there is not measured again. Confident learning is cleanlab's, in an environment of its own, on
predictions of five networks, each trained without the fifth that it predicts. A figure is the mean
over the seeds, with the least and the most.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

REPOSITORY = Path(__file__).resolve().parents[1]
if str(REPOSITORY) not in sys.path:
    sys.path.insert(0, str(REPOSITORY))

from benchmarks.environments import make_environment  # noqa: E402, works as a file, too
from benchmarks.noisy_sets import SETS, NoisySet  # noqa: E402

from sourcetrace.audit.suggestions.suspicion import weigh_evidence  # noqa: E402
from sourcetrace.checkpoints.folder import CheckpointFolder  # noqa: E402
from sourcetrace.datasets.gradient_cache import GradientCache  # noqa: E402
from sourcetrace.parameters import (  # noqa: E402
    AttributionParameters,
    GradientParameters,
    ReportParameters,
    SegmentParameters,
)
from sourcetrace.pipelines.checkpoint_ingest.nodes import ingest_checkpoints  # noqa: E402
from sourcetrace.pipelines.gradient_extraction.nodes import extract_gradients  # noqa: E402
from sourcetrace.pipelines.set_up.nodes import set_up_audit  # noqa: E402
from sourcetrace.pipelines.shared.inputs import Ingested  # noqa: E402
from sourcetrace.pipelines.source_scoring.work import score  # noqa: E402
from sourcetrace.reporting.review import build_review_list  # noqa: E402
from sourcetrace.tasks import train_with_sgd  # noqa: E402

_CHECKPOINTS, _FOLDS = 6, 5
_CLEANLAB = "cleanlab==2.9.0"

ORDERS = ("suspicion", "harm", "self-influence", "loss", "cleanlab")
_MEASURES = ("average precision", "precision at the noise rate", "AUROC")


def audit(noisy: NoisySet, folder: Path, *, seed: int) -> dict[str, pl.DataFrame]:
    """Train, save checkpoints, and return the tables that the review list is made of."""
    count = len(noisy.given)
    steps = noisy.recipe.epochs * (count // noisy.recipe.batch_size)
    wanted = {round(steps * i / _CHECKPOINTS) for i in range(1, _CHECKPOINTS + 1)}

    def save(step: int, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
        if step in wanted:
            content = {"model_state_dict": model.state_dict(), "step": step}
            content["optimizer_state_dict"] = optimizer.state_dict()
            torch.save(content, folder / f"step_{step:06d}.pt")

    train_with_sgd(noisy.task, range(count), noisy.recipe, seed=seed, after_step=save)
    attribution, gradients = AttributionParameters(device="cpu"), GradientParameters()
    checkpoints = CheckpointFolder(folder)
    _, manifest, _, train_table, query_table, *_ = ingest_checkpoints(
        checkpoints, noisy.task, SegmentParameters(), attribution
    )
    cache = GradientCache(folder / "cache")
    setup = set_up_audit(
        Ingested(noisy.task, checkpoints, manifest, train_table, query_table, "", identity="b"),
        cache,
        gradients,
        attribution,
    )
    signals, query_signals, history, *_ = extract_gradients(setup, gradients)
    parts = list(zip(*score(setup).parts, strict=True))
    scores, influence, own = (pl.read_parquet([one.path for one in files]) for files in parts[:3])
    return {
        "train_table": train_table,
        "checkpoint_manifest": manifest,
        "example_signals": signals,
        "query_signals": query_signals,
        "query_history": history,
        "attribution_scores": scores,
        "query_influence": influence,
        "self_influence": own,
    }


def held_out_predictions(noisy: NoisySet, *, seed: int) -> np.ndarray[Any, Any]:
    """Return what networks that have not seen an example say of it: [N, C], or [N] targets."""
    inputs, labels = noisy.task.train_examples().tensors
    fold = np.random.default_rng(seed).permutation(len(labels)) % _FOLDS
    found = []
    for number in range(_FOLDS):
        rows = np.flatnonzero(fold != number)
        model = train_with_sgd(noisy.task, rows.tolist(), noisy.recipe, seed=seed)
        with torch.no_grad():
            outputs = model(inputs[fold == number])
        found.append(outputs[:, 0] if labels.is_floating_point() else outputs.softmax(-1))
    result = np.zeros((len(labels), *found[0].shape[1:]), dtype=np.float32)
    for number, one in enumerate(found):
        result[fold == number] = one.numpy()
    return result


def review_list(tables: dict[str, pl.DataFrame]) -> pl.DataFrame:
    """Return the list of an audit, in the order of the training examples."""
    evidence = weigh_evidence(
        *(
            tables[name]
            for name in (
                "train_table",
                "checkpoint_manifest",
                "example_signals",
                "query_history",
                "query_influence",
                "self_influence",
            )
        )
    )
    end = tables["checkpoint_manifest"]["checkpoint_id"][-1]
    listed = build_review_list(
        train_table=tables["train_table"].with_row_index("index"),
        final_signals=tables["example_signals"].filter(checkpoint_id=end),
        query_influence=tables["query_influence"],
        self_influence=tables["self_influence"],
        suspicions=evidence,
        queries=tables["query_signals"].height,
        report=ReportParameters(),
    )
    return listed.sort("index")


def measured(noisy: NoisySet, tables: dict[str, pl.DataFrame]) -> dict[str, Any]:
    """Return every order's scores, large ones suspect, and what is suggested, [N] each."""
    listed = review_list(tables)
    # The place within the class, as a share of it, so that classes are alike.
    is_class = pl.when(pl.col("given_label_probability").is_not_null()).then("given_label")
    place = -pl.col("self_influence_rank") / pl.len().over(is_class)
    true = [f"{value}" for value in noisy.true.tolist()]
    return {
        "suspicion": listed["suspicion"].to_numpy(),
        "harm": listed["harm"].to_numpy(),
        "self-influence": listed.select(place).to_series().to_numpy(),
        "loss": listed["loss"].to_numpy(),
        "suspect": (listed["suggested_action"] != "keep").to_numpy(),
        "relabelled": (listed["suggested_action"] == "relabel").to_numpy(),
        "relabelled_rightly": (listed["suggested_label"] == pl.Series(true))
        .fill_null(value=False)
        .to_numpy(),
        "wrong": noisy.wrong,
        "given": noisy.given.numpy(),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is not there yet, and print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.label_errors", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS))
    build = REPOSITORY / "build"
    parser.add_argument("--folder", type=Path, default=build / "label_errors", metavar="DIR")
    parser.add_argument("--environments", type=Path, default=build / "environments")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    given.folder.mkdir(parents=True, exist_ok=True)
    files = {
        name: [given.folder / f"{name} {seed}.npz" for seed in range(given.seeds)]
        for name in given.sets
    }
    for name, own in files.items():
        for seed, file in enumerate(own):
            if not file.exists():
                np.savez(file, **_measure(name, seed, given.data))
    python = make_environment(given.environments / "cleanlab", _CLEANLAB)
    every = [file for own in files.values() for file in own]
    command = [python, REPOSITORY / "benchmarks" / "label_errors_cleanlab.py", *every]
    subprocess.run(command, check=True)
    print(table({name: [_read(file) for file in own] for name, own in files.items()}))


def table(found: dict[str, list[dict[str, Any]]]) -> str:
    """Return the figures of all sets and seeds, in Markdown."""
    lines = []
    with_errors = {name: runs for name, runs in found.items() if runs[0]["wrong"].any()}
    for place, measure in enumerate(_MEASURES):
        lines += [f"| {measure} | {' | '.join(ORDERS)} |", f"| --- {'| --- ' * len(ORDERS)}|"]
        for name, runs in with_errors.items():
            values = [[judged(run["wrong"], run[order])[place] for run in runs] for order in ORDERS]
            lines.append(f"| {name} | {' | '.join(_range(one) for one in values)} |")
        lines.append("")
    lines += [
        "| | wrong labels | suspects | wrong among them | found | new label right | CPU s |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, runs in found.items():
        columns = [
            [int(run["wrong"].sum()) for run in runs],
            [int(run["suspect"].sum()) for run in runs],
            [_share(run["wrong"] & run["suspect"], run["suspect"]) for run in runs],
            [_share(run["wrong"] & run["suspect"], run["wrong"]) for run in runs],
            [_share(run["relabelled_rightly"], run["relabelled"]) for run in runs],
            [float(run["seconds"]) for run in runs],
        ]
        lines.append(f"| {name} | {' | '.join(_range(one) for one in columns)} |")
    return "\n".join(lines)


def judged(wrong: np.ndarray[Any, Any], scores: np.ndarray[Any, Any]) -> tuple[float, ...]:
    """Return average precision, precision among as many as are wrong, and AUROC."""
    first = np.argsort(-scores, kind="stable")[: wrong.sum()]
    return (
        float(average_precision_score(wrong, scores)),
        float(wrong[first].mean()),
        float(roc_auc_score(wrong, scores)),
    )


def _measure(name: str, seed: int, data: Path) -> dict[str, Any]:
    noisy = SETS[name](data, seed)
    with tempfile.TemporaryDirectory() as folder:
        began = time.process_time()
        tables = audit(noisy, Path(folder), seed=seed)
        seconds = time.process_time() - began
    found = measured(noisy, tables) | {"held_out": held_out_predictions(noisy, seed=seed)}
    return found | {"seconds": seconds}


def _read(file: Path) -> dict[str, Any]:
    quality = np.load(file.with_suffix(".quality.npy"))
    return {**np.load(file), "cleanlab": -quality}


def _share(part: np.ndarray[Any, Any], whole: np.ndarray[Any, Any]) -> float:
    return float(part.sum() / whole.sum()) if whole.any() else float("nan")


def _range(values: Sequence[float]) -> str:
    if all(isinstance(value, int) for value in values):
        return " / ".join(map(str, values))
    known = [value for value in values if value == value]  # noqa: PLR0124, NaN
    if not known:
        return "–"
    digits = 1 if max(known) > 1 else 3
    low, high = (f"{value:.{digits}f}" for value in (min(known), max(known)))
    return f"{np.mean(known):.{digits}f} ({low}–{high})"


if __name__ == "__main__":
    main()
