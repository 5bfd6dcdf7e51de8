"""A task of candidates is the task of these rows; BM25 against its definition, text by text."""

import math
import re
from collections import Counter

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from sourcetrace.errors import InputError
from sourcetrace.tasks import ClassificationTask
from sourcetrace.tasks.loading import load_task
from sourcetrace.tasks.search import bm25

TEXTS = ["a lake", "The river flows", "a town", "Another river, a river", "a hill", "a cow"]


class Asked(ClassificationTask):
    """Six training examples and a query."""

    def __init__(self, query="Which river?", column="text"):
        self.query, self.column = query, column

    def build_model(self):
        return nn.Linear(2, 2)

    def train_examples(self):
        return [(torch.full((2,), float(i)), torch.tensor(i % 2)) for i in range(len(TEXTS))]

    def query_examples(self):
        return self.train_examples()[:1]

    def train_table(self):
        return pl.DataFrame(
            {"example_id": [f"e{i}" for i in range(len(TEXTS))], self.column: TEXTS}
        )

    def query_table(self):
        return pl.DataFrame({"example_id": ["q"], self.column: [self.query]})

    def train(self, indices, *, seed):
        return list(indices), seed

    def relabelled(self, labels):
        other = Asked(self.query, self.column)
        other.train = lambda indices, *, seed: (list(indices), labels)
        return other


def asked(candidates, **arguments):
    return load_task(
        {"class": f"{__name__}.Asked", "arguments": arguments, "candidates": candidates}
    )


def test_candidates_are_the_texts_that_share_words_and_a_sample():
    task = asked({"sample": 0})
    assert task.train_table()["example_id"].to_list() == ["e1", "e3"]
    assert [float(inputs[0]) for inputs, _ in task.train_examples()] == [1, 3]
    assert task.query_table().height == 1
    (best,) = asked({"sample": 0, "each": 1}).train_table()["text"]
    assert best == "Another river, a river"
    with_others = asked({"sample": 3}).train_table()["example_id"].to_list()
    assert {"e1", "e3"} < set(with_others)
    assert with_others == asked({"sample": 3}).train_table()["example_id"].to_list()
    assert asked({"sample": 99}).train_table().equals(asked(None).train_table())


def test_retraining_without_some_candidates_keeps_what_is_not_audited():
    kept, seed = asked({"sample": 0}).train([1], seed=7)
    assert (kept, seed) == ([0, 2, 3, 4, 5], 7)


def test_relabelled_candidates_are_trained_with_what_is_not_audited():
    task = asked({"sample": 0}).relabelled({1: "0"})
    assert task.train([0, 1], seed=3) == (list(range(6)), {3: "0"})
    assert task.train([1], seed=3) == ([0, 2, 3, 4, 5], {3: "0"})


def test_tables_without_the_texts_are_refused():
    with pytest.raises(InputError, match=r"train_table\(\) has no text in words; .*_id, text"):
        asked({"columns": ["text", "words"]})


words = st.lists(st.sampled_from(["lake", "Lake", "hill", "cow", "-", "of"]), max_size=6)


@given(texts=st.lists(words, min_size=1, max_size=5), query=words)
def test_bm25_is_its_definition(texts, query):
    joined = [" ".join([*one, "end"]) for one in texts]
    (found,) = bm25([" ".join(query)], joined)
    split = [Counter(re.findall(r"\w+", one.lower())) for one in joined]
    mean = np.mean([one.total() for one in split])
    for text, value in zip(split, found, strict=True):
        expected = 0.0
        for word in {one.lower() for one in query}:
            having = sum(word in other for other in split)
            idf = math.log(1 + (len(split) - having + 0.5) / (having + 0.5))
            held_back = 1.5 * (0.25 + 0.75 * text.total() / mean)
            expected += idf * 2.5 * text[word] / (text[word] + held_back)
        assert value == pytest.approx(expected, rel=1e-12, abs=0)
