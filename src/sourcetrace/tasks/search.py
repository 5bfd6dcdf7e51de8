"""A task with the training examples alone that a few queries are likely to be about.

Words choose candidates for every query; the method then scores these alone. A random sample is
audited with them, so that the curvature is not that of the candidates only.

    relevance(q, m) = Σ_w idf(w) · n_m(w)(k₁ + 1) / (n_m(w) + k₁(1 − b + b·|m|/mean |m|))

over the words w of q, n_m(w) how often w is in m, idf(w) = log(1 + (N − N_w + ½)/(N_w + ½)), N_w
the number of texts that have w.

Source: Robertson and Zaragoza 2009 (BM25), with Lucene's idf, which is never negative.
"""

import logging
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from sourcetrace.errors import InputError
from sourcetrace.parameters import CandidateParameters
from sourcetrace.tasks.set_aside import of_examples

logger = logging.getLogger(__name__)


def with_candidates(task: Any, parameters: CandidateParameters) -> Any:
    """Return the task of the candidates and the sample; its `train` is of all others besides.

    Raises:
        InputError: If a table lacks a column of text.
    """
    texts, queries = (_texts(task, side, parameters.columns) for side in ("train", "query"))
    relevance = bm25(queries, texts)
    first = np.argsort(-relevance, axis=1, kind="stable")[:, : parameters.each]
    found = first[np.take_along_axis(relevance, first, axis=1) > 0]
    size = min(parameters.sample, len(texts))
    drawn = np.random.default_rng(0).choice(len(texts), size, replace=False)
    rows = np.union1d(found, drawn).tolist()
    logger.info(
        "task.candidates: %d of %d training examples are audited, %d of them like a query",
        len(rows),
        len(texts),
        len(np.unique(found)),
    )
    return of_examples(task, rows, besides=set(range(len(texts))).difference(rows))


def bm25(
    queries: Sequence[str], texts: Sequence[str], *, k1: float = 1.5, b: float = 0.75
) -> npt.NDArray[np.float64]:
    """Return the relevance of every text for every query, [Q, N].

    Args:
        queries: Texts whose words are looked for; case does not count.
        texts: N of them.
        k1: How soon a word's repetitions stop to count.
        b: How much long texts are held back, 0 to 1.
    """
    # Here: few searches need it, and every task would wait for the import.
    from sklearn.feature_extraction.text import CountVectorizer  # noqa: PLC0415

    counter = CountVectorizer(analyzer=_words)
    counts = counter.fit_transform(texts).astype(float).tocoo()
    lengths = np.asarray(counts.sum(1)).ravel()
    having = np.bincount(counts.col, minlength=counts.shape[1])
    rarity = np.log1p((len(texts) - having + 0.5) / (having + 0.5))
    held_back = k1 * (1 - b + b * lengths / lengths.mean())
    counts.data *= (k1 + 1) / (counts.data + held_back[counts.row]) * rarity[counts.col]
    asked = counter.transform(queries).sign()
    found: npt.NDArray[np.float64] = (asked @ counts.T).toarray()
    return found


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _texts(task: Any, side: str, columns: Sequence[str]) -> list[str]:
    table: pl.DataFrame = getattr(task, f"{side}_table")()
    if missing := [name for name in columns if table.schema.get(name) != pl.String]:
        raise InputError(
            f"task.candidates.columns: {side}_table() has no text in {', '.join(missing)}; its "
            f"columns are {', '.join(table.columns)}. Name columns of text that both tables have."
        )
    joined = pl.concat_str(columns, separator=" ", ignore_nulls=True)
    return table.select(joined).to_series().to_list()
