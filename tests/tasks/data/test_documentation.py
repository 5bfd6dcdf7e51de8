"""The examples of docs/data.md and of the README, run as they stand there.

That of a catalog's entry is audited in `tests/commands/test_audit_pending.py`.
"""

import itertools
import json
import random
import re

import polars as pl
import pytest

from tests import REPOSITORY
from tests.tasks.data.tiny_text import tiny_bert, tiny_tokenizer
from tests.test_commands import kedro, make_project, train_churn_model

pytestmark = pytest.mark.slow

BLOCKS = [
    block
    for page in ("docs/data.md", "README.md")
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
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
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
    reviews.save_to_disk(str(project / "data/01_raw/reviews"))
    tokenizer = tiny_tokenizer()
    arguments = transformers.TrainingArguments(
        output_dir=str(project / "data/06_models/reviews"),
        max_steps=120,
        per_device_train_batch_size=16,
        learning_rate=0.01,
        save_steps=60,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        seed=0,
    )
    tokenized = reviews["train"].map(lambda row: tokenizer(row["text"], truncation=True))
    transformers.Trainer(
        tiny_bert(), arguments, train_dataset=tokenized, processing_class=tokenizer
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


def test_a_table_is_audited_without_code_for_it(project):
    wrong = train_churn_model(project / "data/01_raw")
    review, _ = audit(project, "mine")
    assert len(set(review["example_id"].head(2 * len(wrong))) & wrong) >= 0.7 * len(wrong)
