"""`sourcetrace explain`: what it is asked and prints, and that it leaves an audit as it was."""

import json
import sys

import polars as pl
import pytest
import torch
from rich.console import Console

from sourcetrace.commands import explain_report
from sourcetrace.commands.explain import explain
from sourcetrace.commands.explain_report import print_explanations
from sourcetrace.commands.explain_run import _from_files
from sourcetrace.reporting.explanation import Asked
from tests.reporting.test_explanation import EVIL, explanations
from tests.tasks.data.tiny_text import WORDS, tiny_bert, tiny_tokenizer
from tests.test_commands import kedro, make_project, sourcetrace
from tests.tiny import state_of

TASK = f"""
import torch
from transformers import BertConfig, BertForSequenceClassification

from sourcetrace.tasks import ClassificationTask, TextData


class Reviews(TextData, ClassificationTask):
    measurement_name = "margin"

    def build_model(self):
        return BertForSequenceClassification(
            BertConfig(
                vocab_size={len(WORDS)},
                hidden_size=8,
                num_hidden_layers=1,
                num_attention_heads=2,
                intermediate_size=16,
                max_position_embeddings=16,
                num_labels=2,
            )
        )
"""

SETTINGS = """
task:
  class: reviews.Reviews
  arguments: {train: {path: train.parquet}, queries: queries.parquet, tokenizer: tokenizer}
checkpoints: {path: checkpoints}
segments: {count: 1}
attribution: {method: source}
"""

TRAIN = pl.DataFrame(
    {
        "example_id": [f"review-{i}" for i in range(6)],
        "text": ["good film", "very bad", "bad film", "very very good", "bad", "good"],
        "label": ["pos", "neg", "neg", "pos", "neg", "pos"],
    }
)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Expected one of"),
        (["a", "--text", "b"], "Expected one of"),
        (["a", "--completion", "b"], "options of --text"),
        (["--file", "nowhere.jsonl"], "does not exist"),
        (["a", "-k", "0"], "strongest"),
    ],
)
def test_what_cannot_be_asked_is_told(arguments, said, capsys):
    with pytest.raises(SystemExit) as ended:
        explain(arguments, prog_name="sourcetrace explain")
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_a_catalog_with_credentials_is_left_to_kedro(tmp_path, monkeypatch):
    project = make_project(tmp_path / "a project")
    (project / "conf/mine").mkdir()
    entry = "query_shares: {type: json.JSONDataset, filepath: a.json, credentials: store}"
    (project / "conf/mine/catalog.yml").write_text(entry)
    monkeypatch.chdir(project)
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert _from_files(Asked(("q0",)), "mine") is None


@pytest.mark.parametrize("colours", [False, True])
def test_texts_are_printed_as_texts_with_colours_or_without(monkeypatch, capsys, colours):
    def console(**options):
        system = "truecolor" if colours else None
        return Console(**options, force_terminal=colours, color_system=system)

    monkeypatch.setattr(explain_report, "Console", console)
    print_explanations(explanations(), page=None)
    said = capsys.readouterr().out
    assert ("\x1b[" in said) == colours
    assert "\x1b[31m" not in said.replace("\x1b[31mhurts", "")
    assert "\u202e" not in said
    if not colours:
        assert f"Query {EVIL[:25]}[bold red]\\u001b[31m\\u202e" in said
        assert "removing it would raise the loss by 0.3" in said
        assert "removing it would lower the loss by 0.2" in said
        assert "by segment: 1 (general) +0.3, 2 (narrow) 0" in said
        assert "helps most: " in said
        assert "hurts most: ' film' −0.1" in said
        assert "of no one token: head +0.01" in said


def make_audited(folder):
    """Train the classifier for a few steps, and audit it."""
    project = make_project(folder)
    (project / "reviews.py").write_text(TASK)
    (project / "conf/mine").mkdir()
    (project / "conf/mine/parameters.yml").write_text(SETTINGS)
    TRAIN.write_parquet(project / "train.parquet")
    queries = TRAIN[:2].with_columns(example_id=pl.Series(["first", "second"]))
    queries.write_parquet(project / "queries.parquet")
    tokenizer, model = tiny_tokenizer(), tiny_bert().train()
    tokenizer.save_pretrained(str(project / "tokenizer"))
    batch = tokenizer(TRAIN["text"].to_list(), return_tensors="pt", padding=True)
    labels = torch.tensor((TRAIN["label"] == "pos").cast(int).to_list())
    optimizer = torch.optim.SGD(model.eval().parameters(), lr=0.1)
    (project / "checkpoints").mkdir()
    for step in range(1, 21):
        optimizer.zero_grad()
        model(**batch, labels=labels).loss.backward()
        optimizer.step()
        if step % 10 == 0:
            torch.save(state_of(step, model, optimizer), project / f"checkpoints/step_{step}.pt")
    run = kedro(project, "run", "--pipelines", "audit", "--env", "mine")
    assert run.returncode == 0, run.stderr[-3000:]
    return project


def files_of(project):
    return {
        path: path.read_bytes()
        for path in sorted((project / "data").rglob("*"))
        if path.is_file() and not path.name.startswith("run.lock")
    }


@pytest.mark.slow
def test_audited_typed_and_filed_queries_are_explained_behind_an_audit(tmp_path):
    project = make_audited(tmp_path / "a project")
    before = files_of(project)

    def explained(*arguments, code=0):
        run = sourcetrace(project, "explain", *arguments, "--env", "mine")
        assert run.returncode == code, run.stderr[-3000:]
        assert "Traceback" not in run.stderr
        return run

    run = explained("second", "-k", "2", "--html", "second.html")
    assert "Query second (label neg)" in run.stdout
    assert "the model says" in run.stdout
    assert "removing it would lower the margin by" in run.stdout
    assert "helps most: " in run.stdout
    assert "Page: second.html" in run.stdout
    assert "Removing one would lower the margin" in (project / "second.html").read_text()

    whole = json.loads(explained("second", "--json").stdout)["queries"][0]
    # The same query, typed: its text and label are the second training example's.
    typed = explained("--text", "very bad", "--label", "neg", "--json").stdout
    (other,) = json.loads(typed)["queries"]
    assert other["example_id"] == "typed"
    assert other["measurement"] == pytest.approx(whole["measurement"])
    for one, again in zip(whole["helpers"], other["helpers"], strict=True):
        assert one["example_id"] == again["example_id"]
        assert one["score"] == pytest.approx(again["score"], rel=0.01)
        parts = sum(token["score"] for token in one["tokens"]) + sum(one["elsewhere"].values())
        assert parts == pytest.approx(one["score"], rel=0.01)

    # Without tokens, what is stored says the same; of as many examples as are asked for.
    stored = json.loads(explained("second", "--no-tokens", "-k", "20", "--json").stdout)
    (again,) = stored["queries"]
    assert stored["log_odds"]
    assert again["shares"] == whole["shares"]
    assert again["measurement"] == pytest.approx(whole["measurement"])
    for side in ("helpers", "harmers"):
        found = [(one["example_id"], one["score"]) for one in again[side]]
        assert found[:5] == [(one["example_id"], one["score"]) for one in whole[side]]
    assert not again["helpers"][0]["tokens"]

    lines = [{"text": "good", "label": "pos"}, {"text": "very bad film", "label": "neg"}]
    (project / "more.jsonl").write_text("\n".join(map(json.dumps, lines)))
    said = explained("second", "--no-tokens", "--html", "/dev/null/page.html", code=2).stderr
    assert "--html /dev/null/page.html cannot be written: " in said
    found = json.loads(explained("--file", "more.jsonl", "--no-tokens", "--json").stdout)
    assert len(found["queries"]) == 2
    assert not found["queries"][0]["helpers"][0]["tokens"]

    said = " ".join(explained("secnd", code=2).stderr.split())
    assert "There is no query 'secnd' among the 2 queries of this audit" in said
    assert files_of(project) == before
