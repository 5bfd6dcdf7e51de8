"""Outputs of an audit that nobody ran, of any size, by the names of the catalog.

Ten classes, two stages, six checkpoints, two segments; 5 % of the labels are wrong, 1 % of the
examples are exact copies and 1 % near ones; an audit before had other scores.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl

from sourcetrace import schemas
from sourcetrace.audit.comparison.snapshot import AuditFigures, AuditSnapshot
from sourcetrace.audit.comparison.summary import AuditPoint
from sourcetrace.datasets.score_files import merge_strongest, strongest_of
from sourcetrace.schemas.table import Table

_BLOCK, _SKETCH, _STAGES = 1024, 32, ("pretraining", "finetuning")
_STRONGEST = 10
_CLASSES = pl.Series(map(str, range(10)))
_RANDOM = np.random.default_rng(0)


def outputs_of(
    count: int, queries: int, *, stored_scores: str = "float32"
) -> Iterator[tuple[str, Any]]:
    """Yield entries and what to save in them; of large ones a part at a time.

    Args:
        count: Training examples.
        queries: Queries.
        stored_scores: As `attribution.precision.stored_scores`.
    """
    ids, asked = (
        pl.select(pl.format(name, pl.int_range(size))).to_series()
        for name, size in (("example-{}", count), ("query-{}", queries))
    )
    copies = count // 100
    given = _RANDOM.integers(0, 10, count)
    given[-copies:] = given[:copies]
    wrong = _RANDOM.random(count) < 0.05  # noqa: PLR2004
    predicted = np.where(wrong, (given + _RANDOM.integers(1, 3, count)) % 10, given)
    yield "audit_identity", {"data": "made", "checkpoints": "up"}
    sides = {"training": count, "queries": queries}
    yield (
        "data_digests",
        {
            side: {"digest": f"st1-{side}", "rows": rows, "columns": {}}
            for side, rows in sides.items()
        },
    )
    yield "set_aside", []
    yield "measurement", {"name": "margin", "higher_is_better": True, "by_token": False}
    yield "kept_curvature", {}
    steps = [
        (
            *(
                f"step_{step}",
                f"step_{step}.pt",
                "",
                step,
                _STAGES[step // 3],
                1 + step // 3,
                "SGD",
            ),
            *(0.1, 0.9, 0.0, 10.0, "constant", [], [], [], "0" * 64, 1, 1.0),
        )
        for step in range(6)
    ]
    yield "checkpoint_manifest", schemas.CheckpointManifest.frame(steps)
    yield "unattributed_parameters", schemas.UnattributedParameters.frame()
    spectra = [(segment, "0", 9, 1.0, list(np.geomspace(1e-6, 1, 9))) for segment in (1, 2)]
    yield "curvature_spectra", schemas.CurvatureSpectra.frame(spectra)
    for name in ("suspect_pictures", "strongest_pictures", "query_pictures"):
        yield name, schemas.SuspectPictures.frame()
    own = pl.DataFrame({"example_id": ids, "label": _CLASSES.gather(given)})
    sources = np.where(wrong, 0, _RANDOM.integers(0, 3, count))
    table = own.with_columns(
        pl.Series("stage", [[one] for one in _STAGES]).gather(_RANDOM.integers(0, 2, count)),
        pl.Series("source", ["crawl", "archive", "gift"]).gather(sources),
        age=pl.Series(_RANDOM.normal(40, 10, count)),
    )
    yield "train_table", table
    labels = _CLASSES.gather(classes := _RANDOM.integers(0, 10, queries))
    yield "query_table", pl.DataFrame({"example_id": asked, "label": labels})
    yield "query_signals", _table(schemas.QuerySignals, example_id=asked, predicted_label=labels)
    content = (pl.int_range(count) % (count - copies)).cast(pl.String).str.zfill(32)
    digests = own.with_columns(input_digest=content, target_digest=pl.lit(None, pl.String))
    yield "example_digests", digests
    before = digests.tail(-copies).with_columns(
        rank=pl.int_range(1, count - copies + 1),
        harm=pl.Series(_RANDOM.normal(size=count - copies)),
        decision=pl.lit(None, pl.String),
        suspect=pl.Series(wrong[copies:]),
        audits_suspected=pl.Series(wrong[copies:].astype(int)),
    )
    point = AuditPoint("", "pass", before.height, 0.05, None, None, None)
    task = "sourcetrace.tasks.digits.DigitsTask"
    figures = AuditFigures("", task, None, "source", "", "", "", point, ())
    yield "audit_snapshot", AuditSnapshot(figures, before)
    said = _CLASSES.gather(predicted)
    signals = schemas.ExampleSignals
    points = (
        _table(signals, example_id=ids, checkpoint_id=f"step_{step}", predicted_label=said)
        for step in range(6)
    )
    yield "example_signals", pl.concat(points)
    yield "suspicions", _suspicions(ids, wrong, said)
    yield "content_sketches", _sketches(pl.concat([ids, asked]), given, classes, copies)
    strongest = []
    for start in range(0, count, _BLOCK):
        own, scores = slice(start, start + _BLOCK), (len(ids[start : start + _BLOCK]), queries)
        values = _RANDOM.normal(0.003 * wrong[own, None], 0.01, scores).astype(np.float32)
        strongest.append(strongest_of([(ids[own], values)], _STRONGEST, higher_is_better=True))
        yield from _scored(ids[own], values, stored_scores)
    yield from _of_queries(asked, merge_strongest(strongest, _STRONGEST))


def _of_queries(asked: pl.Series, found: pl.DataFrame) -> Iterator[tuple[str, pl.DataFrame]]:
    """Yield what scoring says of the queries, with their strongest examples."""
    found = found.with_columns(query_id=asked.gather(found["query"]))
    yield "query_strongest", found.select(list(schemas.QueryStrongest.columns()))
    names = [("stage", one) for one in _STAGES] + [("segment", f"{n} (x)") for n in (1, 2)]
    shares = [(query, *name, 0.5) for query in asked for name in names]
    yield "query_shares", schemas.QueryShares.frame(shares)
    helpers = pl.Series(_RANDOM.uniform(10, 100, len(asked)))
    yield "query_helpers", pl.DataFrame({"query_id": asked, "helpers": helpers})


def _table(schema: type[Table], **columns: Any) -> pl.DataFrame:
    """Return a table with these columns, texts repeated, and random numbers in the others."""
    size, names = len(columns["example_id"]), schema.columns()
    numbers = {name: _RANDOM.random(size) for name, kind in names.items() if kind.is_float()}
    texts = {name: pl.lit(one) for name, one in columns.items() if isinstance(one, str | int)}
    table = pl.DataFrame(numbers | {name: columns[name] for name in set(columns) - set(texts)})
    return table.with_columns(**texts).select(pl.col(one).cast(kind) for one, kind in names.items())


def _suspicions(ids: pl.Series, wrong: Any, said: pl.Series) -> pl.DataFrame:
    suspicion = np.where(wrong, _RANDOM.beta(6, 2, len(ids)), _RANDOM.beta(1, 8, len(ids)))
    order = np.argsort(-suspicion)
    rate = np.empty(len(ids))
    rate[order] = np.cumsum(~wrong[order]) / np.arange(1, len(ids) + 1)
    other = pl.select(pl.when(pl.Series(wrong)).then(said)).to_series()
    told = {"suspicion": suspicion, "false_discovery": rate, "other_label": other}
    return _table(schemas.Suspicions, example_id=ids, exploratory="", **told)


def _sketches(ids: pl.Series, given: Any, classes: Any, copies: int) -> pl.DataFrame:
    centres, labels = _RANDOM.normal(size=(10, _SKETCH)), np.concatenate([given, classes])
    values = (centres[labels] + _RANDOM.normal(0, 0.7, (len(ids), _SKETCH))).astype(np.float32)
    training = values[: len(given)]
    training[-copies:] = training[:copies]
    near = _RANDOM.normal(0, 0.03, (copies, _SKETCH))
    training[-2 * copies : -copies] = training[copies : 2 * copies] + near
    sides = pl.Series("side", ["training", "query"])
    return pl.DataFrame(
        [
            sides.gather(np.repeat([0, 1], [len(given), len(classes)])),
            ids.alias("example_id"),
            pl.Series("sketch", values, dtype=pl.Array(pl.Float32, _SKETCH)),
        ]
    )


def _scored(ids: pl.Series, scores: Any, stored_scores: str) -> Iterator[tuple[str, pl.DataFrame]]:
    """Yield what scoring writes of a block."""
    harm, queries = scores.sum(1, dtype=np.float64), scores.shape[1]
    values = pl.Series("scores", scores, dtype=pl.Array(pl.Float32, queries))
    kept = (
        [values]
        if stored_scores == "float32"
        else [pl.repeat("0", len(ids), eager=True).alias("scores_digest")]
    )
    yield "attribution_scores", pl.DataFrame([ids.alias("example_id"), *kept])
    yield "self_influence", _table(schemas.SelfInfluence, example_id=ids)
    counted = {"queries_harmed": (scores > 0).sum(1), "sign_stable": np.abs(harm) > 0.2}  # noqa: PLR2004
    names = {"most_harmed_query": "query-0", "method": "scaled_source"}
    yield (
        "query_influence",
        _table(schemas.QueryInfluence, example_id=ids, harm=harm, **counted, **names),
    )
    for segment in (1, 2):
        own = schemas.SegmentContributions
        yield "segment_contributions", _table(own, example_id=ids, segment=segment, harm=harm / 2)
    sizes = pl.Series(np.abs(scores[:16]), dtype=pl.Array(pl.Float64, queries))
    shown = pl.DataFrame([ids[:16].alias("example_id"), sizes.alias("absolute_scores")])
    for segment in (1, 2):
        yield "query_contributions", shown.with_columns(segment=pl.lit(segment, pl.Int64))
