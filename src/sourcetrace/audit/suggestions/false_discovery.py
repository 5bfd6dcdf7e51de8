"""How many of the suspects are right labels: queries show how bad a right label may look.

The null hypothesis of an example is that its label is right. Queries are held out, so what the
model says of them is what it would say of a right label that it has not trained on; with its own
influence taken off, a training example with a right label is one more of them. Its p-value is the
share of queries that look as bad (a conformal p-value, Bates et al. 2023), continued beyond the
worst tenth of them by an exponential tail, and Benjamini and Hochberg's procedure makes q-values
of these.

It assumes that queries are labelled rightly and drawn as the training examples were, and that the
harm of right labels does not depend on how they look. Wrong labels among the queries make it find
less, other data anything.
"""

from typing import Any

import numpy as np
import scipy

_Array = np.ndarray[Any, Any]

FEWEST_QUERIES = 50
_TAIL = 0.1
_LEVELS = (np.arange(100) + 0.5) / 100
_LEAST_BELOW, _MOST_BELOW = 0.25, 0.65
"""Of the training examples, below the queries' median; one half, less half the wrong labels."""


def false_discovery(
    evidence: _Array, queries: _Array, *, harm: _Array | None = None
) -> tuple[_Array, str]:
    """Return the q-value of every example, and why they are exploratory, or nothing.

    Where the queries can be no null, the bulk of the examples is: a normal distribution of their
    median and median absolute deviation.

    Args:
        evidence: How wrong the labels of training examples look, [N].
        queries: The same of the queries, [Q]; none where there is no such thing.
        harm: What harm adds to the evidence, [N]. Queries have none: each is given that of
            training examples, one after the other.
    """
    why = _why_not(evidence, queries)
    if harm is not None:
        evidence = evidence + harm
        queries = (queries[:, None] + np.quantile(harm, _LEVELS)).ravel()
    scale = scipy.stats.median_abs_deviation(evidence, scale="normal")
    if not why:
        chances = _tail_shares(evidence, np.sort(queries))
    elif scale > 0:
        chances = scipy.stats.norm.sf((evidence - np.median(evidence)) / scale)
    else:
        chances = np.ones(len(evidence))
    return scipy.stats.false_discovery_control(chances), why


def _why_not(evidence: _Array, queries: _Array) -> str:
    if len(queries) < FEWEST_QUERIES:
        return (
            f"there are fewer than {FEWEST_QUERIES} queries that show how bad a right label looks"
        )
    below = float((evidence < np.median(queries)).mean())
    if not _LEAST_BELOW <= below <= _MOST_BELOW:
        return (
            "the queries are not like the training examples: half of them look better than "
            f"{1 - below:.0%} of these"
        )
    return ""


def _tail_shares(evidence: _Array, queries: _Array) -> _Array:
    """Return the share of the queries, sorted, that reach each value, and its continuation."""
    count = len(queries)
    as_bad = count - np.searchsorted(queries, evidence, side="left")
    worst = queries[-round(_TAIL * count) :]
    start = queries[-len(worst) - 1]
    excess = float((worst - start).mean())
    beyond = evidence > start
    if excess > 0:
        tail = np.exp(-np.maximum(evidence - start, 0) / excess) * len(worst) / count
    else:
        tail = np.zeros(len(evidence))
    counted = np.where(beyond, np.maximum(tail, 1e-300), (1 + as_bad) / (count + 1))
    shares: _Array = np.minimum(counted, 1.0)
    return shares
