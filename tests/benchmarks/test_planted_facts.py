"""What is planted says what the queries ask for."""

import json

import numpy as np
import pytest

pytest.importorskip("transformers")

from benchmarks.planted_facts import LENGTH, PlantedTask, precision_of
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ground_truth")
    (folder / "recipe.json").write_text(json.dumps({"model": {"n_layer": 1}}))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator([], trainers.BpeTrainer(initial_alphabet=alphabet))
    tokenizer.save(str(folder / "tokenizer.json"))
    tokens = np.random.default_rng(0).integers(0, 256, (1024, LENGTH))
    np.savez(folder / "data.npz", train_tokens=tokens)
    return PlantedTask(folder)


def test_three_sequences_state_a_fact_and_others_do_not(task):
    examples = task.train_examples()
    assert {len(one["input_ids"]) for one in examples} == {LENGTH}
    counts = dict(zip(*np.unique(task.kinds, return_counts=True), strict=True))
    assert counts == {"fact": 120, "false": 20, "general": 492, "mention": 40, "shuffled": 20}
    texts = task.texts(examples)
    for kind, number, text in zip(task.kinds, task.of_fact, texts, strict=True):
        if kind == "fact":
            assert task.facts[number].subject in text
            assert task.facts[number].answer in text
        elif kind == "false":
            assert task.facts[number].answer not in text
    assert task.train_table()["text"].to_list() == texts


def test_a_query_has_its_loss_at_the_answer_alone(task):
    for fact, query in zip(task.facts, task.query_examples(), strict=True):
        asked = query["labels"] != task.ignored_index
        assert task.tokenizer.decode(query["labels"][asked].tolist()).strip() == fact.answer


def test_a_perfect_ranking_is_perfect():
    relevant = np.arange(30) % 10 == 0
    assert precision_of(relevant.astype(float), relevant) == (1, 1)
    assert precision_of(-relevant.astype(float), relevant)[0] == 0
