"""The examples of the README, the guide, tasks.md and language_models.md run as they stand.

That of a catalog's entry is audited in `tests/commands/test_audit_pending.py`.
"""

import itertools
import json
import random
import re

import polars as pl
import pytest

from tests import REPOSITORY
from tests.tasks.data.tiny_text import WORDS, tiny_bert, tiny_tokenizer
from tests.test_commands import kedro, make_project, train_churn_model
from tests.tiny import seeded

pytestmark = pytest.mark.slow

BLOCKS = [
    block
    for page in (
        "docs/guide/your_model.md",
        "docs/reference/tasks.md",
        "docs/reference/language_models.md",
        "README.md",
    )
    for block in re.findall(
        r"```(?:python|yaml)\n# ([\w./]+)[^\n]*\n(.*?)```",
        (REPOSITORY / page).read_text(encoding="utf-8"),
        re.S,
    )
]
WRONG = range(0, 120, 15)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = make_project(tmp_path_factory.mktemp("documented") / "a project")
    for name, text in BLOCKS:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return folder


def audit(project, environment):
    run = kedro(project, "run", "--pipelines", "audit", "--env", environment)
    assert run.returncode == 0, run.stderr[-3000:]
    return pl.read_parquet(project / "data/08_reporting/review_list.parquet"), run


def train_reviews(project):
    """Do what the page says that the training did, with some labels wrong."""
    datasets = pytest.importorskip("datasets")
    texts = [
        " ".join(words) for words in itertools.product(["good", "bad", "very", "film"], repeat=5)
    ]
    texts = [text for text in texts if text.count("good") != text.count("bad")]
    random.Random(0).shuffle(texts)
    labels = [int(text.count("good") > text.count("bad")) for text in texts]
    given = [1 - label if i in WRONG else label for i, label in enumerate(labels)]
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])}
    )
    reviews = datasets.DatasetDict(
        {
            name: datasets.Dataset.from_dict(
                {"text": texts[part], "label": given[part]}, features=features
            )
            for name, part in (("train", slice(120)), ("test", slice(120, 150)))
        }
    )
    train(project, "reviews", reviews, tiny_bert(), tiny_tokenizer(), 120)


def train_stories(project):
    """The same: texts that go round in a circle, some of them the other way."""
    datasets = pytest.importorskip("datasets")
    transformers = pytest.importorskip("transformers")
    circle = ["good", "bad", "film", "very"]
    texts = [
        " ".join(circle[(start + (-i if number in WRONG else i)) % 4] for i in range(length))
        for number, (start, length) in enumerate(
            (number % 4, 4 + number % 5) for number in range(150)
        )
    ]
    stories = datasets.DatasetDict(
        {
            name: datasets.Dataset.from_dict({"text": texts[part]})
            for name, part in (("train", slice(120)), ("test", slice(120, 150)))
        }
    )
    tokenizer = tiny_tokenizer()
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    config = transformers.GPT2Config(
        vocab_size=len(WORDS),
        n_positions=16,
        n_embd=8,
        n_layer=1,
        n_head=2,
        bos_token_id=2,
        eos_token_id=3,
    )
    with seeded(0):
        model = transformers.GPT2LMHeadModel(config)
    collator = transformers.DataCollatorForLanguageModeling(tokenizer, mlm=False)
    train(project, "stories", stories, model, tokenizer, 200, data_collator=collator)


def train(project, name, texts, model, tokenizer, steps, **options):
    """Save the texts and train on them, as the pages say."""
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    texts.save_to_disk(str(project / "data/01_raw" / name))
    arguments = transformers.TrainingArguments(
        output_dir=str(project / "data/06_models" / name),
        max_steps=steps,
        per_device_train_batch_size=16,
        learning_rate=0.01,
        save_steps=steps // 2,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        seed=0,
    )
    tokenized = texts["train"].map(lambda row: tokenizer(row["text"], truncation=True))
    transformers.Trainer(
        model, arguments, train_dataset=tokenized, processing_class=tokenizer, **options
    ).train()


def test_a_trainers_folder_and_a_data_set_on_disk_are_audited_without_code_for_them(project):
    code = dict(BLOCKS)["reviews.py"]
    assert len(code.splitlines()) <= 15
    train_reviews(project)
    review, run = audit(project, "reviews")
    assert review.height == 120
    table = pl.read_parquet(project / "data/03_primary/train_table.parquet")
    wrong = {table["example_id"][i] for i in WRONG}
    assert len(set(review["example_id"].head(2 * len(wrong))) & wrong) >= 0.7 * len(wrong)
    assert set(table["label"]) == {"bad", "good"}
    assert "text" in table.columns
    summary = json.loads((project / "data/08_reporting/audit.json").read_text())
    assert summary["metrics"]["attributed_share"] > 0.9
    assert "Traceback" not in run.stderr


def test_a_language_model_is_audited_without_code(project):
    assert len(dict(BLOCKS)["conf/stories/parameters.yml"].splitlines()) <= 12
    train_stories(project)
    review, run = audit(project, "stories")
    table = pl.read_parquet(project / "data/03_primary/train_table.parquet")
    wrong = {table["example_id"][i] for i in WRONG}
    assert len(set(review["example_id"].head(2 * len(wrong))) & wrong) >= 0.7 * len(wrong)
    assert "a token (perplexity" in review["predicted_label"][0]
    summary = json.loads((project / "data/08_reporting/audit.json").read_text())
    assert summary["metrics"]["attributed_share"] == 1
    assert "Traceback" not in run.stderr


def test_a_table_is_audited_without_code_for_it(project):
    wrong = train_churn_model(project / "data/01_raw")
    review, _ = audit(project, "mine")
    assert len(set(review["example_id"].head(2 * len(wrong))) & wrong) >= 0.7 * len(wrong)
