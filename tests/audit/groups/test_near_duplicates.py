"""Near-duplicates: planted ones are found, by content first, and few others."""

import numpy as np
import polars as pl
import pytest
import torch
from sklearn.datasets import load_digits

from sourcetrace.audit.groups import near_duplicates
from sourcetrace.audit.groups.near_duplicates import cluster_of, near_pairs, near_queries
from sourcetrace.core.gradients.capture import ForwardPass
from sourcetrace.core.gradients.sketches import sketches
from sourcetrace.core.layers.discovery import find_layers
from sourcetrace.tasks.digits import DigitsTask

SIMILARITY = 0.99


def tables(vectors, digests=None, queries=()):
    """Return digests and sketches of examples e0, e1, … and queries q0, q1, …"""
    count = len(vectors)
    both = np.concatenate([vectors, queries]) if len(queries) else vectors
    names = [f"e{i}" for i in range(count)] + [f"q{i}" for i in range(len(queries))]
    sides = ["training"] * count + ["query"] * len(queries)
    digests = [f"{i:032x}" for i in range(count)] if digests is None else digests
    return (
        pl.DataFrame({"example_id": names[:count], "input_digest": digests}),
        pl.DataFrame(
            {
                "side": sides,
                "example_id": names,
                "sketch": pl.Series(both.astype(np.float32), dtype=pl.Array(pl.Float32, 32)),
            }
        ),
    )


def ordered(pairs):
    """Return pairs of numbers, each once."""
    numbers = ((int(a[1:]), int(b[1:])) for a, b in pairs.select("first", "second").iter_rows())
    return {pair for pair in numbers if pair[0] < pair[1]}


@pytest.fixture(scope="module")
def scans():
    """Return digits' sketches at weights of the demo's network, untrained, and what makes them."""
    pixels = (load_digits().data[:1000] / 16).astype(np.float32)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = DigitsTask.build_model(None)

    def sketched(images):
        tensor = torch.from_numpy(images).reshape(-1, 1, 8, 8)
        layers = find_layers(model, lambda: model(tensor[:2]), examples=2).layers
        captured = ForwardPass(model, layers, lambda: model(tensor), examples=len(tensor))
        return sketches(captured.inputs(), layers).numpy()

    return pixels, sketched


def test_scans_shifted_by_noise_are_found_and_few_others(scans):
    pixels, sketched = scans
    random = np.random.default_rng(1)
    chosen = random.choice(1000, 100, replace=False)
    copies = pixels[chosen] + random.normal(0, 0.02, (100, 64)).astype(np.float32)
    vectors = sketched(np.concatenate([pixels, copies.clip(0, 1)]))
    found = ordered(near_pairs(*tables(vectors), similarity=SIMILARITY))
    planted = {(int(one), 1000 + number) for number, one in enumerate(chosen)}
    assert len(found & planted) >= 95
    assert len(found & planted) >= 0.8 * len(found)


def test_equal_contents_come_first_and_need_no_sketch():
    vectors = np.random.default_rng(0).normal(size=(6, 32))
    digests, content = tables(vectors, ["a" * 32, "b" * 32, "a" * 32, None, None, "b" * 32])
    pairs = near_pairs(digests, content, similarity=SIMILARITY)
    assert ordered(pairs) == {(0, 2), (1, 5)}
    assert set(pairs["similarity"]) == {1.0}
    assert ordered(near_pairs(digests, content.clear(), similarity=SIMILARITY)) == {(0, 2), (1, 5)}
    clusters = cluster_of(pairs, digests["example_id"])
    assert clusters.to_list() == ["e0", "e1", "e0", None, None, "e1"]


def test_a_search_by_pivots_finds_what_all_with_all_does():
    random = np.random.default_rng(0)
    vectors = random.normal(size=(30, 32))[random.integers(0, 30, 6000)]
    vectors += random.normal(0, 0.6, vectors.shape)
    vectors[5500:] = vectors[:500] + random.normal(0, 0.05, (500, 32))
    found = ordered(near_pairs(*tables(vectors), similarity=SIMILARITY))
    unit = vectors - vectors.mean(0)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    exact = set(zip(*np.nonzero(np.triu(unit @ unit.T >= SIMILARITY, 1)), strict=True))
    assert len(exact) > 400
    assert len(found & exact) >= 0.98 * len(exact)
    assert len(found - exact) <= 0.01 * len(exact)  # rounding


@pytest.fixture
def compared(monkeypatch):
    """Return a list to which the number of products of every part is added."""
    counts, parts = [], near_duplicates._compared

    def counted(*arguments):
        for others, own in parts(*arguments):
            counts.append((own.stop - own.start) * len(others))
            yield others, own

    monkeypatch.setattr(near_duplicates, "_compared", counted)
    return counts


def test_equal_sketches_stand_by_the_first_and_those_at_the_centre_by_none(compared):
    vectors = np.tile(np.linspace(-1, 1, 32), (20_000, 1)).astype(np.float16)
    unknown = [None] * len(vectors)
    assert near_pairs(*tables(vectors, unknown), similarity=SIMILARITY).is_empty()
    assert not compared
    vectors[:1000] = np.random.default_rng(0).normal(size=(1000, 32))
    pairs = near_pairs(*tables(vectors, unknown), similarity=SIMILARITY)
    assert ordered(pairs) == {(1000, other) for other in range(1001, 20_000)}
    assert sum(compared) <= 2 * 1001**2


def test_the_work_grows_with_the_examples_where_all_share_a_pivot(compared, monkeypatch):
    monkeypatch.setattr(near_duplicates, "_BUCKET", 10**6)
    random = np.random.default_rng(0)
    for count in (10_000, 20_000):
        compared.clear()
        vectors = random.normal(size=(count, 32))
        vectors[-100:] = vectors[:100] + random.normal(0, 0.03, (100, 32))
        found = ordered(near_pairs(*tables(vectors), similarity=SIMILARITY))
        assert found == {(number, count - 100 + number) for number in range(100)}
        assert sum(compared) <= count * near_duplicates._MOST


def test_training_examples_near_a_query_are_found():
    random = np.random.default_rng(0)
    vectors = random.normal(size=(50, 32))
    queries = random.normal(size=(5, 32))
    vectors[7] = queries[3] + 0.01
    near = near_queries(tables(vectors, queries=queries)[1], similarity=SIMILARITY)
    assert near.select("first", "second").rows() == [("e7", "q3")]
    assert near_queries(tables(vectors)[1], similarity=SIMILARITY).is_empty()
