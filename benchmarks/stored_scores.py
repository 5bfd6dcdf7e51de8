"""What scores lose where they are kept in float16.

    python -m benchmarks.stored_scores --scores data/07_model_output/attribution_scores
    python -m benchmarks.stored_scores --ground-truth DIR --sets concrete mnist

The first reads the scores of an audit that kept them in float32; the second scores ground truths,
as `benchmarks.lds` does, with the reference queries, three segments and the default method.
"""

import argparse
import json
import logging
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from scipy.stats import spearmanr

# Run as a file, Python looks for modules beside it and not in the repository's root.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.lds import REFERENCE_QUERIES, ClassificationGroundTruth, RegressionGroundTruth
from benchmarks.pipeline_run import run_pipeline

from sourcetrace.checkpoints.folder import CheckpointFolder
from sourcetrace.datasets.score_files import ScoreFiles, score_columns
from sourcetrace.parameters import AttributionParameters

_Array = np.ndarray[Any, Any]

_TOP = 50
_BLOCK = 4096


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a row a set of scores."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stored_scores", description=__doc__)
    parser.add_argument("--scores", type=Path, help="folder of attribution_scores")
    parser.add_argument("--ground-truth", type=Path)
    parser.add_argument("--sets", nargs="*", default=[])
    given = parser.parse_args(arguments)
    logging.disable(logging.WARNING)
    print("| scores | largest relative error | least Spearman of a query | same top 50 | bytes |")
    print("| --- | --- | --- | --- | --- |")
    if given.scores:
        found = np.concatenate([scores for _, scores in ScoreFiles(given.scores).blocks()])
        print(row(given.scores.name, found))
    for name in given.sets:
        print(row(name, _scores(given.ground_truth / name, name)))


def row(name: str, scores: _Array) -> str:
    """Return a row of Markdown of scores [N, Q]."""
    sizes, again = zip(*_kept(scores), strict=True)
    stored = np.concatenate(again)
    known = scores != 0
    error = np.abs(stored[known] / scores[known] - 1).max()
    pairs = list(zip(scores.T, stored.T, strict=True))
    order = min(spearmanr(one, other).statistic for one, other in pairs)
    same = [len(_top(sign * a) & _top(sign * b)) for sign in (1, -1) for a, b in pairs]
    share = np.mean(same) / min(_TOP, len(scores))
    small, large = np.sum(sizes, axis=0)
    return (
        f"| {name}, {len(scores):,} × {scores.shape[1]} | {error:.1e} | 1 - {1 - order:.0e} | "
        f"{share:.2%} | {small / large:.2f} |"
    )


def _kept(scores: _Array) -> Iterator[tuple[tuple[int, int], _Array]]:
    """Yield bytes, in float16 and in float32, and scores of a file that were written and read."""
    for start in range(0, len(scores), _BLOCK):
        part = scores[start : start + _BLOCK]
        with tempfile.TemporaryDirectory() as name:
            files = [Path(name) / one / "part-000000.parquet" for one in ("float16", "float32")]
            for file in files:
                file.parent.mkdir()
                ids = pl.Series("example_id", [str(start + i) for i in range(len(part))])
                pl.DataFrame([ids, *score_columns(part, file.parent.name)]).write_parquet(file)
            ((_, again),) = ScoreFiles(files[0].parent).blocks()
            small, large = (file.stat().st_size for file in files)
            yield (small, large), again


def _top(scores: _Array) -> set[int]:
    return set(np.argsort(-scores, kind="stable")[:_TOP].tolist())


def _scores(folder: Path, name: str) -> _Array:
    recipe = json.loads((folder / "recipe.json").read_text())
    kind = ClassificationGroundTruth if recipe["loss"] == "cross-entropy" else RegressionGroundTruth
    task = kind(folder, REFERENCE_QUERIES[name])
    checkpoints = CheckpointFolder(folder / "checkpoints/run0")
    return run_pipeline(task, checkpoints, AttributionParameters(), 3).scores.T.numpy()


if __name__ == "__main__":
    main()
