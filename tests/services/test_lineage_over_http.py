"""An audit of a registered version, read back from the server's REST API link by link."""

import hashlib
import json
import re

import polars as pl
import pytest

from sourcetrace.tracking.history.audit_log import AuditHistory
from sourcetrace.tracking.lineage.model_version import TRAINING_DIGEST
from sourcetrace.tracking.lineage.record import CLOSING, OPENING
from tests.chromium import CHROMIUM
from tests.services.browser import document, run_page, take_picture, version_page
from tests.services.churn import churn_project, set_churn_parameters
from tests.services.served_project import FAILS, PASSES, ServedProject
from tests.test_commands import REPOSITORY

pytestmark = [pytest.mark.service, pytest.mark.slow]

MODEL = "sourcetrace-digits"
SHORT = "demo: {epochs: 2, checkpoints: 2}\n"
WORDS = "Trained by hand. Ask the churn team."


@pytest.fixture(scope="module")
def audited(server, tmp_path_factory):
    """A project whose training registered a version, which an audit of its own passed."""
    project = ServedProject(tmp_path_factory.mktemp("project") / "a project", server)
    project.set_parameters(SHORT)
    training = project.kedro("run", "--pipelines", "demo_training")
    assert training.returncode == 0, training.stderr[-3000:]
    server.patch("model-versions/update", name=MODEL, version="1", description=WORDS)
    named = f"tracking: {{registered_model: {{name: {MODEL}, version: 1}}}}\n"
    project.set_parameters(SHORT + PASSES + named)
    run = project.sourcetrace("audit")
    assert run.returncode == 0, run.stderr[-3000:]
    assert "Traceback" not in run.stderr
    return project


def version_of(server, model=MODEL):
    return server.get("model-versions/get", name=model, version="1")["model_version"]


def tags_of(entity):
    return {one["key"]: one["value"] for one in entity.get("tags", [])}


def run_of(server, run_id):
    return server.get("runs/get", run_id=run_id)["run"]


def test_every_link_between_version_run_data_and_checkpoints_can_be_followed(audited, server):
    version = version_of(server)
    tags = tags_of(version)
    assert tags["audit.status"] == "pass"
    assert tags["lineage.data_matches"] == "true"
    run = run_of(server, tags["audit.run_id"])

    # The version's training run says what it was trained on, and the audit read the same.
    training_run = run_of(server, version["run_id"])
    digest = tags_of(training_run["data"])[TRAINING_DIGEST]
    data = {one["dataset"]["name"]: one for one in run["inputs"]["dataset_inputs"]}
    assert set(data) == {"audited_training_data", "audited_queries"}
    assert data["audited_training_data"]["dataset"]["digest"] == digest
    assert all(tags_of(one) == {"mlflow.data.context": "audit"} for one in data.values())
    rows = {name: json.loads(one["dataset"]["profile"])["num_rows"] for name, one in data.items()}
    assert rows == {"audited_training_data": 1437, "audited_queries": 360}

    # Checkpoints are logged models of the training run; the version's own model is an input too.
    models = {
        model["info"]["model_id"]: model
        for one in run["inputs"]["model_inputs"]
        for model in [server.get(f"logged-models/{one['model_id']}")["model"]]
    }
    manifest = pl.read_parquet(audited.path / "data/02_intermediate/checkpoint_manifest.parquet")
    hashes = {tags_of(one["info"]).get("sourcetrace.checkpoint_sha256") for one in models.values()}
    assert hashes == {*manifest["sha256"], None}
    assert {one["info"]["source_run_id"] for one in models.values()} == {version["run_id"]}
    own = models[version["source"].removeprefix("models:/")]

    # Headline figures stand against the version's model and the data that was audited.
    figures = {
        one["key"]: (one["run_id"], one["dataset_name"], one["dataset_digest"])
        for one in own["data"]["metrics"]
        if one["key"].startswith("audit.")
    }
    assert figures == dict.fromkeys(
        ("audit.suspect_share", "audit.relabel_suggestions", "audit.attributed_share"),
        (run["info"]["run_id"], "audited_training_data", digest),
    )
    assert run["info"]["status"] == "FINISHED"


def test_the_version_has_tags_alias_and_card_and_keeps_what_people_wrote(audited, server):
    version = version_of(server)
    tags = tags_of(version)
    run_id = tags["audit.run_id"]
    assert version["aliases"] == ["audited"]
    named = server.get("registered-models/get", name=MODEL)["registered_model"]
    assert named["aliases"] == [{"alias": "audited", "version": "1"}]

    before, rest = version["description"].split(OPENING)
    card, after = rest.split(CLOSING)
    assert (before.strip(), after) == (WORDS, "")
    experiment = run_of(server, run_id)["info"]["experiment_id"]
    assert f"(#/experiments/{experiment}/runs/{run_id})" in card
    assert "Audit: pass" in card

    (row,) = AuditHistory(audited.reporting / "audit_log.jsonl").read()
    assert AuditHistory(audited.reporting / "audit_log.jsonl").verify() == []
    assert float(tags["audit.suspect_fraction"]) == round(row["suspect_fraction"], 4)
    assert (row["run_id"], row["at"], row["status"]) == (run_id, tags["audit.at"], "pass")
    run_tags = tags_of(run_of(server, run_id)["data"])
    assert run_tags["audit.log_hash"] == row["hash"]
    assert run_tags["audit.model_version"] == f"{MODEL} version 1"


def test_the_page_that_was_judged_can_be_downloaded(audited, server):
    tags = tags_of(version_of(server))
    page = server.artifact(tags["audit.run_id"], "audit/cleaning_report.html")
    assert hashlib.sha256(page).hexdigest() == tags["audit.report_sha256"]
    for name in ("gate.json", "audit.json"):
        kept = (audited.reporting / name).read_bytes()
        listed = server.get("artifacts/list", run_id=tags["audit.run_id"], path="audit")
        (path,) = [one["path"] for one in listed["files"] if one["path"].endswith(name)]
        assert server.artifact(tags["audit.run_id"], path) == kept


def test_nothing_that_is_sent_holds_the_databases_password(audited, server, postgres):
    run_id = tags_of(version_of(server))["audit.run_id"]
    assert postgres.password not in json.dumps(run_of(server, run_id))


def test_an_audit_again_takes_the_place_of_the_first_and_one_that_fails_takes_the_alias(
    server, tmp_path
):
    project = churn_project(tmp_path / "project", server, model="churn")
    for _ in range(2):
        run = project.sourcetrace("audit")
        assert run.returncode == 0, run.stderr[-3000:]
    log = project.reporting / "audit_log.jsonl"
    rows = AuditHistory(log).read()
    version = version_of(server, "churn")
    assert tags_of(version)["audit.run_id"] == rows[1]["run_id"]
    assert version["aliases"] == ["audited"]
    assert version["description"].count(OPENING) == version["description"].count(CLOSING) == 1
    inputs = [run_of(server, row["run_id"])["inputs"] for row in rows]
    # The same data sets and logged models, not others with the same content.
    assert len(inputs[0]["model_inputs"]) == 3
    assert len(inputs[0]["dataset_inputs"]) == 2
    assert sorted_links(inputs[0]) == sorted_links(inputs[1])

    set_churn_parameters(project, "churn", gate=FAILS)
    run = project.sourcetrace("audit")
    assert run.returncode == 1, run.stderr[-3000:]
    rows = AuditHistory(log).read()
    failed = version_of(server, "churn")
    assert tags_of(failed)["audit.status"] == "fail"
    assert tags_of(failed)["audit.run_id"] == rows[2]["run_id"]
    assert "aliases" not in failed
    assert run_of(server, rows[2]["run_id"])["info"]["status"] == "FAILED"
    assert [row["status"] for row in rows] == ["pass", "pass", "fail"]
    assert AuditHistory(log).verify() == []


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_mlflows_pages_show_the_card_and_the_data(audited, server):
    """Leaves pictures of both pages in build/pictures, to be looked at."""
    version = version_of(server)
    run_id = tags_of(version)["audit.run_id"]
    pages = {
        "version": version_page(server.url, MODEL, "1"),
        "run": run_page(server.url, run_of(server, run_id)["info"]["experiment_id"], run_id),
    }
    drawn = {name: document(address) for name, address in pages.items()}
    pictures = REPOSITORY / "build/pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    for name, address in pages.items():
        take_picture(address, pictures / f"mlflow_{name}.png")
    assert re.search(r"<h3[^>]*>\s*Audit: pass", drawn["version"])
    assert "<!-- sourcetrace" not in re.sub(r"<!--.*?-->", "", drawn["version"], flags=re.S)
    assert WORDS in drawn["version"]
    assert tags_of(version)["audit.trust"] in drawn["version"]
    assert "audited_training_data" in drawn["run"]
    assert "audit.suspect_share" in drawn["run"]


def sorted_links(inputs):
    return (
        sorted(one["model_id"] for one in inputs["model_inputs"]),
        sorted(one["dataset"]["digest"] for one in inputs["dataset_inputs"]),
    )
