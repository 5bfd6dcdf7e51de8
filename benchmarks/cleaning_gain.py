"""What a model gains by the suggested changes of sets with labels made wrong on purpose.

    python -m benchmarks.cleaning_gain --data DIR [--plantings 20] [--sets NAME…] [--folder DIR]

DIR is `label_errors`'s. Every planting is trained, audited, and trained again: with the suggested
changes, with all suspects given their true label (as somebody who knows it would decide), without
the suspects, with as many changes as suggested of random examples of the same classes, and with
all wrong labels put right. Examples that no audit reads say how good the model is. Plantings are
independent, so the interval is Student's over them; what was measured stays in the folder.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn

REPOSITORY = Path(__file__).resolve().parents[1]
if str(REPOSITORY) not in sys.path:
    sys.path.insert(0, str(REPOSITORY))

from benchmarks.label_errors import audit, review_list  # noqa: E402, works as a file, too
from benchmarks.noisy_sets import SETS, NoisySet, digits  # noqa: E402

from sourcetrace.core.statistics.retraining import paired_interval  # noqa: E402
from sourcetrace.pipelines.verify_cleaning.changes import Changes  # noqa: E402
from sourcetrace.tasks import train_with_sgd  # noqa: E402

_TRAININGS = 3
"""Of every planting and kind of change, each with a seed of its own."""

CHANGED: dict[str, Callable[[Path, int], NoisySet]] = SETS | {
    "digits, 8 %": lambda data, seed: digits(data, seed, held_out=0.4),
    "digits, clean": lambda data, seed: digits(data, seed, 0.0, held_out=0.4),
}
"""Name -> set; of the digits two fifths are held out, half of these as queries."""

KINDS = ("suggestions", "suspects put right", "suspects left out", "random", "all put right")


def changes_of(noisy: NoisySet, listed: pl.DataFrame, *, seed: int) -> dict[str, Changes]:
    """Return what is changed for each of `KINDS`, and nothing as before."""
    listed = listed.with_columns(decision=pl.lit(None, pl.String))
    suspect = (listed["suggested_action"] != "keep").to_numpy()
    true = [f"{value}" for value in noisy.true.tolist()]
    suggested = Changes.suggested(listed.select("example_id"), listed)
    has_classes = not noisy.given.is_floating_point()
    classes = listed["given_label"] if has_classes else pl.repeat("", listed.height, eager=True)

    def right(which: np.ndarray[Any, Any]) -> Changes:
        return Changes([], {int(i): true[i] for i in np.flatnonzero(which)})

    return {
        "before": Changes([], {}),
        "suggestions": suggested,
        "suspects put right": right(suspect & noisy.wrong),
        "suspects left out": Changes(np.flatnonzero(suspect).tolist(), {}),
        "random": suggested.at_random(classes, seed=[seed]),
        "all put right": right(noisy.wrong),
    }


def outcomes(noisy: NoisySet, changes: Changes) -> list[dict[str, list[float]]]:
    """Train with the changes; return the score and the measurement, on the test and the queries."""
    task = noisy.task.relabelled(changes.labels)
    kept = sorted(set(range(len(noisy.given))).difference(changes.removed))
    found = []
    for seed in range(_TRAININGS):
        model = train_with_sgd(task, kept, noisy.recipe, seed=1000 + seed)
        parts = {"test": noisy.test, "queries": task.query_examples()}
        found.append({name: _measured(task, model, *part.tensors) for name, part in parts.items()})
    return found


def _measured(task: Any, model: nn.Module, inputs: Tensor, labels: Tensor) -> list[float]:
    """Return the accuracy, or R² of numbers, and the mean measurement, the larger the better."""
    with torch.no_grad():
        given = model(inputs)
        measurement = float(task.measurement(given, (inputs, labels)).mean())
    if labels.is_floating_point():
        unexplained = (given[:, 0] - labels).square().mean() / labels.var(correction=0)
        return [1 - float(unexplained), -measurement]
    return [float((given.argmax(-1) == labels).double().mean()), measurement]


def measure(name: str, seed: int, *, data: Path, folder: Path) -> dict[str, Any]:
    """Return what the models of a planting reached, from the folder where it is there."""
    file = folder / f"{name} {seed}.json"
    if not file.exists():
        noisy = CHANGED[name](data, seed)
        changes = changes_of(noisy, review_list(_audited(name, seed, noisy, folder)), seed=seed)
        found: dict[str, Any] = {}
        for kind, one in changes.items():
            same = next((other for other in found if changes[other] == one), None)
            found[kind] = outcomes(noisy, one) if same is None else found[same]
        counts = {kind: [len(one.removed), len(one.labels)] for kind, one in changes.items()}
        file.write_text(json.dumps({"counts": counts, "found": found}))
    result: dict[str, Any] = json.loads(file.read_text())
    return result


def _audited(name: str, seed: int, noisy: NoisySet, folder: Path) -> dict[str, pl.DataFrame]:
    """Return the tables of the planting's audit, from the folder where they are there."""
    own = folder / f"{name} {seed}"
    if not own.exists():
        with tempfile.TemporaryDirectory() as checkpoints:
            tables = audit(noisy, Path(checkpoints), seed=seed)
        own.mkdir()
        for part, table in tables.items():
            table.write_parquet(own / f"{part}.parquet")
    return {one.stem: pl.read_parquet(one) for one in own.glob("*.parquet")}


def table(found: dict[str, list[dict[str, Any]]]) -> str:
    """Return what is gained, and what the queries make of it, in Markdown and hundredths."""
    lines = [f"| | changed | before | {' | '.join(KINDS)} |", f"| ---{' | ---' * 7} |"]
    for name, runs in found.items():
        changed = np.mean([sum(run["counts"]["suggestions"]) for run in runs])
        gains = " | ".join(_span(_gain(runs, kind, "test")) for kind in KINDS)
        before = _hundredths(runs, "before", "test").mean()
        lines.append(f"| {name} | {changed:.0f} | {before:.1f} | {gains} |")
    lines += [
        "\n| gain of the suggestions | score | more on the queries | measurement | more |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, runs in found.items():
        test, queries = (
            [_gain(runs, "suggestions", part, place) for place in (0, 1)]
            for part in ("test", "queries")
        )
        both = (f"{_signed(a.mean())} | {_span(b - a)}" for a, b in zip(test, queries, strict=True))
        lines.append(f"| {name} | {' | '.join(both)} |")
    return "\n".join(lines)


def _gain(runs: Sequence[dict[str, Any]], kind: str, part: str, place: int = 0) -> Any:
    """Return that of every planting, a mean over its trainings, in hundredths."""
    return _hundredths(runs, kind, part, place) - _hundredths(runs, "before", part, place)


def _hundredths(runs: Sequence[dict[str, Any]], kind: str, part: str, place: int = 0) -> Any:
    values = [[one[part][place] for one in run["found"][kind]] for run in runs]
    return 100 * np.mean(values, axis=1)


def _span(differences: np.ndarray[Any, Any]) -> str:
    """Return the mean and its interval over independent plantings."""
    if not differences.any():
        return "0"
    low, high = paired_interval(torch.tensor(differences))
    ends = f"{low:.1f} to {high:.1f}".replace("-", "−")
    return f"{_signed(differences.mean())} ({ends})"


def _signed(value: float) -> str:
    return f"{round(value, 1) + 0.0:+.1f}".replace("-", "−")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is not there yet, and print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cleaning_gain", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    parser.add_argument("--plantings", type=int, default=20)
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS))
    build = REPOSITORY / "build"
    parser.add_argument("--folder", type=Path, default=build / "cleaning_gain", metavar="DIR")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    given.folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in given.sets}
    for seed in range(given.plantings):
        for name, runs in found.items():
            runs.append(measure(name, seed, data=given.data, folder=given.folder))
    print(table(found))


if __name__ == "__main__":
    main()
