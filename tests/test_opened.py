"""An audit opened from a folder: its tables, its queries, and what is told where one is missing."""

import json
import subprocess
import sys

import numpy as np
import polars as pl
import pytest
from mlflow.tracking import MlflowClient

import sourcetrace
from sourcetrace.datasets.score_files import score_columns
from sourcetrace.errors import InputError
from sourcetrace.reporting.queries.view import QueryView
from tests.datasets.test_verification_stores import write_scores
from tests.reporting.queries.test_view import query_view


@pytest.fixture
def folder(tmp_path):
    """A folder of outputs as they lie in data/."""
    view = query_view()
    reports, scores = tmp_path / "08_reporting", tmp_path / "07_model_output"
    reports.mkdir()
    scores.mkdir()
    pl.DataFrame({"rank": [1], "example_id": ["e1"]}).write_parquet(reports / "review_list.parquet")
    summary = {"method": view.method, "training_examples": view.training_examples}
    (reports / "audit_summary.json").write_text(json.dumps(summary))
    (scores / "measurement.json").write_text(view.measurement.model_dump_json())
    for name in QueryView.TABLES:
        getattr(view, name).write_parquet(reports / f"{name}.parquet")
    values = np.array([[0.1, 0, 0], [-0.5, 0, 0], [0.4, 0, 0]], np.float32)
    write_scores(scores / "attribution_scores", ["e0", "e1", "e2"], values, [2, 1])
    return tmp_path


def test_tables_are_lazy_and_found_by_their_names(folder):
    audit = sourcetrace.open_audit(folder)
    assert isinstance(audit.review_list, pl.LazyFrame)
    assert audit.review_list.collect()["example_id"].to_list() == ["e1"]
    assert audit.scores().collect().height == 3
    assert audit.scores("q0").collect()["score"].to_list() == pytest.approx([0.1, -0.5, 0.4])
    alone = sourcetrace.open_audit(folder / "08_reporting")
    assert alone.table("query_shares").collect().height == 9


def test_scores_in_float16_are_opened_as_float32(folder):
    table = pl.DataFrame(
        [pl.Series("example_id", ["e0"]), *score_columns(np.array([[1, 2e-9]], "f4"), "float16")]
    )
    for part in (folder / "07_model_output/attribution_scores").iterdir():
        table.write_parquet(part)
    audit = sourcetrace.open_audit(folder)
    assert audit.scores().collect_schema()["scores"] == pl.Array(pl.Float32, 2)
    assert audit.scores("q1").collect()["score"].to_list() == pytest.approx([2e-9] * 2, rel=2**-11)


def test_a_folder_may_be_called_like_a_pattern(folder):
    other = folder.rename(folder.with_name("run=[1]"))
    audit = sourcetrace.open_audit(other)
    assert audit.review_list.collect().columns == ["rank", "example_id"]
    assert audit.scores().collect().height == 3


def test_a_query_is_explained_and_from_the_scores_where_more_are_wanted(folder):
    audit = sourcetrace.open_audit(folder)
    listed = audit.explain("q0", "q1", strongest=1)
    assert [one.example_id for one in listed.queries] == ["q0", "q1"]
    assert len(listed.queries[0].helpers) == 1
    (more,) = audit.explain("q0", "q0", strongest=3).queries
    assert [one.example_id for one in more.helpers] == ["e1"]
    assert [one.example_id for one in more.harmers] == ["e2", "e0"]


def test_what_is_missing_or_there_twice_is_told(folder):
    with pytest.raises(InputError, match="There is no suspect_groups in"):
        _ = sourcetrace.open_audit(folder).groups
    with pytest.raises(InputError, match="is no folder"):
        sourcetrace.open_audit(folder / "nowhere")
    with pytest.raises(InputError, match="no query 'q7'"):
        sourcetrace.open_audit(folder).scores("q7")
    (folder / "other").mkdir()
    pl.DataFrame({"rank": [1]}).write_parquet(folder / "other/review_list.parquet")
    with pytest.raises(InputError, match="several audits"):
        _ = sourcetrace.open_audit(folder).review_list


def test_neither_torch_nor_mlflow_is_imported(folder):
    code = (
        "import sys, sourcetrace\n"
        f"sourcetrace.open_audit({str(folder)!r}).explain('q0')\n"
        "assert not {'torch', 'mlflow', 'altair'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")
def test_the_artifacts_of_a_run_have_the_review_list_and_say_where_queries_are(folder, tmp_path):
    client = MlflowClient(f"sqlite:///{tmp_path}/runs.db")
    experiment = client.create_experiment("audits", (tmp_path / "store").as_uri())
    run = client.create_run(experiment).info.run_id
    client.log_artifact(run, str(folder / "08_reporting/review_list.parquet"), "audit")
    audit = sourcetrace.open_audit(client.download_artifacts(run, "audit"))
    assert audit.review_list.collect()["example_id"].to_list() == ["e1"]
    with pytest.raises(InputError, match=r"of single queries the report alone\. .*copy data/"):
        audit.explain("q0")
