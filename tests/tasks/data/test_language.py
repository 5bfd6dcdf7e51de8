"""Texts of language models: what is predicted, blocks of run_clm, models from a folder."""

import json
import shutil
from itertools import chain

import polars as pl
import pytest
import torch

from sourcetrace.audit.identity.data_digest import task_digests
from sourcetrace.audit.identity.made_of import MadeOf
from sourcetrace.errors import InputError
from sourcetrace.tasks import LanguageData
from sourcetrace.tasks.data import language
from tests.tasks.data.checked import checked_tables
from tests.tasks.data.tiny_text import WORDS, tiny_tokenizer
from tests.tiny import assert_close

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

TEXTS = ["good film", "very very bad film", "bad", "good good good nonsense"]
TRAIN = pl.DataFrame(
    {
        "text": TEXTS,
        "ask": ["very good", "bad film", "very", "good"],
        "say": [" film film", " bad", " very good film", " nonsense"],
        "part": ["one", "one", "two", "two"],
    }
)


def save_model(folder, kind="GPT2", **more):
    transformers = pytest.importorskip("transformers")
    sizes = {
        "GPT2": {"n_positions": 12, "n_embd": 4, "n_layer": 1, "n_head": 2},
        "T5": {"d_model": 4, "d_kv": 2, "d_ff": 4, "num_layers": 1, "num_heads": 2},
    }[kind]
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=len(WORDS), bos_token_id=2, eos_token_id=3, pad_token_id=0, **sizes, **more
    )
    config.save_pretrained(str(folder))
    tokenizer = tiny_tokenizer()
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    tokenizer.eos_token = "[SEP]"
    tokenizer.save_pretrained(str(folder))
    return str(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("gpt2"))


def made(folder, train=TRAIN, **more):
    return LanguageData(**{"train": train, "queries": TRAIN, "model": folder, **more})


def batch_of(task):
    return task.collate(list(task.train_examples()))


def words(tokens):
    return " ".join(WORDS[token] for token in tokens)


def test_every_token_of_a_text_is_predicted_by_the_folders_model(folder):
    task = made(folder)
    model, batch = task.build_model().eval(), batch_of(task)
    assert type(model).__name__ == "GPT2LMHeadModel"
    assert [words(row) for row in batch["input_ids"]][2] == "[CLS] bad [SEP] [PAD] [PAD] [PAD]"
    loss = task.train_loss(task.forward(model, batch), batch).mean()
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    assert_close(loss, model(**batch, labels=labels).loss, tolerance=1e-6)
    training, queries = checked_tables(task)
    assert training["text"].equals(TRAIN["text"])
    assert queries["example_id"].equals(training["example_id"])
    assert task_digests(task) == task_digests(made(folder))


def test_of_a_prompt_and_its_completion_the_second_has_a_loss(folder):
    task = made(folder, prompt="ask", completion="say")
    batch = batch_of(task)
    assert words(batch["input_ids"][0]) == "[CLS] very good film film [SEP]"
    assert batch["labels"][0].tolist() == [-100, -100, -100, 6, 6, 3]
    assert batch["labels"][1].tolist() == [-100, -100, -100, 5, 3, -100]
    table, _ = checked_tables(task)
    assert table["say"].equals(TRAIN["say"])
    cut = batch_of(made(folder, prompt="ask", completion="say", max_length=3))
    assert cut["labels"][0].tolist() == [-100, -100, 2 + 1]
    with pytest.raises(InputError, match="prompt and completion go together"):
        made(folder, prompt="ask")


@pytest.mark.parametrize("length", [2, 3, 4, 6, 9])
def test_of_a_prompt_that_is_cut_on_the_left_nothing_has_a_loss(tmp_path, length):
    folder = save_model(tmp_path)
    file = tmp_path / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"truncation_side": "left"}))
    train = pl.DataFrame({"ask": ["very bad good good"], "say": [" film"]})
    task = made(folder, train, prompt="ask", completion="say", max_length=length)
    ((item,),) = task.train_examples()
    words_left = ["[CLS]", "very", "bad", "good", "good", "film", "[SEP]"]
    assert words(item["input_ids"]).split() == ["[CLS]", *words_left[1:][1 - length :]]
    labels = item["labels"].tolist()
    assert [one for one in labels[1:] if one != -100] == [6, 3][-(length - 1) :]
    assert labels[-1] == 3


def test_texts_end_as_asked_and_are_cut_at_the_models_positions(folder):
    assert words(made(folder, end_of_text=True).train_examples()[2][0]["input_ids"]).endswith(
        "bad [SEP] [SEP]"
    )
    long = TRAIN.with_columns(text=pl.lit("bad " * 30))
    assert len(made(folder, train=long).train_examples()[0][0]["input_ids"]) == 12


@pytest.mark.parametrize("stage", [None, "part"])
def test_blocks_are_those_of_run_clm(folder, stage):
    task = made(folder, block_size=5, stage=stage)
    tokenizer = tiny_tokenizer()
    expected = []
    for texts in [TEXTS] if stage is None else [TEXTS[:2], TEXTS[2:]]:
        joined = list(chain.from_iterable(tokenizer(texts)["input_ids"]))
        expected += [joined[i : i + 5] for i in range(0, len(joined) // 5 * 5, 5)]
    examples = task.train_examples()
    assert [item[0]["input_ids"].tolist() for item in examples] == expected
    table, queries = checked_tables(task)
    assert table.height == len(expected) == len(examples)
    assert table["packed"][0] == "row 0 to row 1"
    assert table["text"][0] == tokenizer.decode(expected[0])
    assert queries.height == len(TEXTS)
    if stage:
        assert table["stage"].unique().sort().to_list() == ["one", "two"]
    with pytest.raises(InputError, match="fewer tokens than a block of 100"):
        made(folder, block_size=100)


@pytest.mark.parametrize("stage", [None, "part"])
def test_texts_without_a_token_are_counted_where_run_clm_cuts(tmp_path, monkeypatch, stage):
    folder = save_model(tmp_path)
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.post_processor = None
    tokenizer.save_pretrained(folder)
    texts = ["good film", "", "bad film good", "very", "", "good good bad film"]
    lists = tokenizer(texts)["input_ids"]
    expected = []
    for first in (0, 3):
        joined = list(chain.from_iterable(lists[first : first + 3]))
        expected += [joined[i : i + 2] for i in range(0, len(joined) // 2 * 2, 2)]
    if stage:  # those of another one in between count there alone
        texts = list(chain.from_iterable((text, "very") for text in texts))
    train = pl.DataFrame({"text": texts}).with_columns(part=pl.int_range(pl.len()) % 2)
    monkeypatch.setattr(language, "_PACKED_AT_ONCE", 3)
    task = made(
        folder, train=train.with_columns(pl.col("part").cast(pl.String)), block_size=2, stage=stage
    )
    found = [item[0]["input_ids"].tolist() for item in task.train_examples()]
    assert found[: len(expected)] == expected


def test_an_encoder_reads_the_prompt_and_its_decoder_writes_the_completion(tmp_path):
    folder = save_model(tmp_path, "T5", decoder_start_token_id=0)
    with pytest.raises(InputError, match="expected the columns prompt"):
        made(folder)
    task = made(folder, prompt="ask", completion="say")
    model, batch = task.build_model().eval(), batch_of(task)
    loss = task.train_loss(task.forward(model, batch), batch).mean()
    assert_close(loss, model(**batch).loss, tolerance=1e-6)


def test_adapters_are_put_on_the_model_and_are_what_is_trained(folder, tmp_path):
    peft = pytest.importorskip("peft")
    below = made(folder).build_model()
    trunk = tmp_path / "trunk"
    shutil.copytree(folder, trunk)
    below.save_pretrained(str(trunk))
    peft.LoraConfig(
        r=2, target_modules=["c_attn"], fan_in_fan_out=True, inference_mode=True
    ).save_pretrained(str(tmp_path))
    task = made(str(trunk), adapter=str(tmp_path))
    model, batch = task.build_model().eval(), batch_of(task)
    # As the adapters start: without an effect.
    assert_close(task.forward(model, batch), task.forward(below.eval(), batch), tolerance=1e-6)
    trained = [name for name, one in model.named_parameters() if one.requires_grad]
    assert len(trained) == 2
    assert all("lora_" in name for name in trained)
    known = task_digests(task)
    assert known == task_digests(made(str(trunk), adapter=str(tmp_path)))
    for file in (tmp_path / "adapter_config.json", trunk / "model.safetensors"):
        content = file.read_bytes()
        number = b'lora_alpha": 8' if file.suffix == ".json" else content[-4:]
        # Another last byte, whichever the random weights end with.
        file.write_bytes(content.replace(number, number[:-1] + bytes([number[-1] ^ 1])))
        assert MadeOf.data_part(task_digests(task)) != MadeOf.data_part(known)
        file.write_bytes(content)
    assert task_digests(task) == known
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "PROMPT_TUNING"}')
    with pytest.raises(InputError, match="has the type PROMPT_TUNING; expected LORA"):
        task.build_model()
    with pytest.raises(InputError, match=r"has neither model\.safetensors"):
        made(folder, adapter=str(tmp_path)).build_model()


def test_weights_of_half_precision_are_computed_with_in_float32(tmp_path):
    model = made(save_model(tmp_path, dtype="bfloat16")).build_model()
    assert {one.dtype for one in model.parameters()} == {torch.float32}


def test_nothing_of_a_folder_is_run(tmp_path):
    folder = save_model(tmp_path)
    file = tmp_path / "config.json"
    known = json.loads(file.read_text())
    (tmp_path / "evil.py").write_text("raise SystemExit('executed')\n")
    own = {"auto_map": {"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil"}}
    file.write_text(json.dumps(known | own | {"attn_implementation": "somebody/kernel"}))
    made(folder).build_model()
    file.write_text(json.dumps(known | own | {"model_type": "evil"}))
    with pytest.raises(
        InputError, match=r"model: .* cannot be read.*code in the folder is not run"
    ):
        made(folder)
    with pytest.raises(InputError, match=r"there is no gpt2/config.json.*Nothing is downloaded"):
        made("gpt2")


def test_rows_without_a_token_are_left_out_by_name(tmp_path):
    folder = save_model(tmp_path)
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.post_processor = None
    tokenizer.save_pretrained(folder)
    task = made(folder, train=TRAIN.with_columns(text=pl.Series(["good", "", "bad film", " "])))
    assert len(task.train_examples()) == 2
    assert task.notes[0] == (
        "task.arguments.train: 2 rows of 4 left out, no token: 'row 1', 'row 3'"
    )


def test_a_completion_that_was_typed_is_measured_behind_its_text(folder):
    task = made(folder, block_size=3)
    (item,), table = task.queries_of({"text": "very good", "completion": " film bad"})
    assert table["example_id"].to_list() == ["typed"]
    assert task.tokens_of(item) == ["[CLS]", "very", "good", "film", "bad", "[SEP]"]
    assert item[0]["labels"].tolist()[:3] == [-100] * 3
    assert words(item[0]["labels"][3:]) == "film bad [SEP]"
    asking = made(folder, prompt="ask", completion="say")
    (other,), _ = asking.queries_of({"text": "very good", "completion": " film bad"})
    assert other[0]["labels"].equal(item[0]["labels"])
    (whole,), _ = task.queries_of({"text": "very good"})
    assert "labels" not in whole[0]
    assert (task.measurement_name, task.measurement_higher_is_better) == ("loss", False)
