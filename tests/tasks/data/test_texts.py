"""Texts as a transformer reads them: tokens, padding that changes nothing, nothing executed."""

import json

import polars as pl
import pytest
import torch
from torch import nn

from sourcetrace.audit.identity.data_digest import task_digests
from sourcetrace.audit.identity.made_of import MadeOf
from sourcetrace.errors import InputError
from sourcetrace.tasks import ClassificationTask, RegressionTask, TaskBase
from sourcetrace.tasks.data import TextData
from tests.tasks.data.checked import checked_tables
from tests.tasks.data.tiny_text import WORDS, tiny_bert, tiny_tokenizer

TRAIN = pl.DataFrame(
    {
        "text": ["good film", "very very bad film", "bad", "good good good nonsense"],
        "second": ["film", "bad bad", "very", ""],
        "label": [1, 0, 0, 1],
    }
)


class Reviews(TextData, ClassificationTask):
    pass


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    tiny_tokenizer().save_pretrained(str(folder))
    return str(folder)


def made(tokenizer, train=TRAIN, task=Reviews, **more):
    return task(**{"train": train, "queries": train, "tokenizer": tokenizer, **more})


def batch_of(task):
    examples = task.train_examples()
    return task.collate([examples[i] for i in range(len(examples))])


def test_an_item_is_the_tokens_of_a_text_and_its_label(tokenizer):
    task = made(tokenizer)
    inputs, label = task.train_examples()[1]
    assert [WORDS[i] for i in inputs["input_ids"]] == [
        "[CLS]",
        *["very", "very", "bad", "film"],
        "[SEP]",
    ]
    assert inputs["attention_mask"].tolist() == [1] * 6
    assert int(label) == 0
    training, _ = checked_tables(task)
    assert training["text"].equals(TRAIN["text"])


def test_queries_are_made_of_what_was_typed_and_of_files(tokenizer, tmp_path):
    task = made(tokenizer)
    items, table = task.queries_of({"text": "good film", "label": "1"})
    assert table.to_dicts() == [{"example_id": "typed", "label": 1, "text": "good film"}]
    assert task.tokens_of(items[0]) == ["[CLS]", "good", "film", "[SEP]"]
    (tmp_path / "more.jsonl").write_text(
        '{"text": "bad", "label": 0}\n{"text": "good", "label": 1}'
    )
    items, table = task.queries_of(str(tmp_path / "more.jsonl"))
    assert [int(label) for _, label in items] == [0, 1]
    assert table["text"].to_list() == ["bad", "good"]
    with pytest.raises(InputError, match="Reviews takes no completion of a query"):
        task.queries_of({"text": "good", "completion": "film"})


def test_padding_changes_no_output_and_the_outputs_are_the_models_logits(tokenizer):
    task, model = made(tokenizer), tiny_bert()
    batch = batch_of(task)
    assert batch[0]["input_ids"].shape == (4, 6)
    outputs = task.forward(model, batch)
    for index, text in enumerate(TRAIN["text"]):
        alone = model(**tiny_tokenizer()(text, return_tensors="pt")).logits
        assert torch.allclose(outputs[index], alone[0], atol=1e-6)
    loss = task.train_loss(outputs, batch)
    expected = model(**batch[0], labels=batch[1]).loss
    assert torch.isclose(loss.mean(), expected)


def test_padding_is_on_the_side_of_the_tokenizer(tmp_path):
    tiny_tokenizer(padding_side="left").save_pretrained(str(tmp_path))
    tokens, _ = batch_of(made(str(tmp_path)))
    assert tokens["input_ids"][2].tolist() == [0, 0, 0, 2, 5, 3]
    assert tokens["attention_mask"][2].tolist() == [0, 0, 0, 1, 1, 1]


def test_data_that_are_padded_otherwise_are_other_data(tmp_path):
    parts = set()
    for side in ("left", "right", "left"):
        tiny_tokenizer(padding_side=side).save_pretrained(str(tmp_path / side))
        parts.add(MadeOf.data_part(task_digests(made(str(tmp_path / side)))))
    assert len(parts) == 2


def test_texts_are_cut_where_it_is_asked_for_or_at_the_tokenizers_limit(tokenizer):
    assert len(made(tokenizer, max_length=4).train_examples()[1][0]["input_ids"]) == 4
    long = TRAIN.with_columns(text=pl.lit("bad " * 30))
    assert len(made(tokenizer, train=long).train_examples()[0][0]["input_ids"]) == 16


def test_two_texts_are_one_sequence_of_two_types(tokenizer):
    task = made(tokenizer, pair="second")
    tokens, _ = batch_of(task)
    expected = tiny_tokenizer()(
        TRAIN["text"].to_list(), TRAIN["second"].to_list(), padding=True, return_tensors="pt"
    )
    assert set(tokens) == set(expected)
    assert all(torch.equal(tokens[name], expected[name]) for name in tokens)
    assert task.train_table()["example_id"].n_unique() == 4


def test_the_model_is_given_what_it_has_arguments_for(tokenizer):
    class Counts(nn.Module):
        def forward(self, input_ids, attention_mask):
            return (input_ids * attention_mask).sum(1)

    task = made(tokenizer, pair="second")
    assert task.forward(Counts(), batch_of(task)).shape == (4,)


def test_a_regression_and_a_task_without_labels_take_texts_too(tokenizer):
    class Stars(TextData, RegressionTask):
        pass

    class Own(TextData, TaskBase):
        pass

    task = made(tokenizer, task=Stars)
    batch = batch_of(task)
    assert task.train_loss(task.forward(tiny_bert(labels=1), batch), batch).shape == (4,)
    task = made(tokenizer, task=Own, label=None)
    assert len(batch_of(task)) == 1
    assert len(list(task.train_examples())) == 4


def test_a_tokenizers_own_code_is_not_run(tokenizer, tmp_path):
    tiny_tokenizer().save_pretrained(str(tmp_path))
    file = tmp_path / "tokenizer_config.json"
    config = json.loads(file.read_text())
    config |= {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}}
    file.write_text(json.dumps(config))
    (tmp_path / "evil.py").write_text("raise SystemExit('executed')\n")
    with pytest.raises(InputError, match=r"cannot be read: .*code in the folder is not run"):
        made(str(tmp_path))


@pytest.mark.parametrize("place", [{"vocab": "{}"}, {"more": [{"merges_file": "{}"}]}])
def test_a_tokenizers_settings_name_no_file_out_of_its_folder(tmp_path, place):
    folder, outside = tmp_path / "tokenizer", tmp_path / "vocab.txt"
    tiny_tokenizer().save_pretrained(str(folder))
    outside.write_text("secret")
    file = folder / "tokenizer_config.json"
    config = json.loads(file.read_text()) | {"name_or_path": str(outside)}
    file.write_text(json.dumps(config))
    made(str(folder))
    for path in (str(outside), f"{folder}/../vocab.txt"):
        file.write_text(json.dumps(config | json.loads(json.dumps(place).replace("{}", path))))
        with pytest.raises(InputError, match=r"_config\.json names .*vocab\.txt, a file out of"):
            made(str(folder))


def test_what_is_no_tokenizer_is_refused(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"no folder bert-base-uncased.*Nothing is downloaded"):
        made("bert-base-uncased")
    with pytest.raises(InputError, match=r"tokenizer: .* cannot be read"):
        made(str(tmp_path))
    tiny_tokenizer(pad=False).save_pretrained(str(tmp_path / "none"))
    with pytest.raises(InputError, match="has no padding token"):
        made(str(tmp_path / "none"))
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(InputError, match="pip install transformers"):
        made(str(tmp_path / "none"))


def test_what_is_no_text_is_refused(tokenizer):
    with pytest.raises(InputError, match="'label' holds Int64; expected text"):
        made(tokenizer, text="label")
    missing = TRAIN.with_columns(text=pl.Series(["a", None, "b", "c"]))
    with pytest.raises(InputError, match=r"'text' is empty in 1 row of 4 \('row 1'\)"):
        made(tokenizer, train=missing)
