"""A registry chooses among the folders below the one that the parameters name, and no others."""

import pytest

from sourcetrace.checkpoints.places.path_template import PathTemplate
from sourcetrace.errors import InputError
from sourcetrace.parameters import TrackingParameters, WatchedModelParameters

BY_TAG = "data/checkpoints/{tag:training.checkpoints}"


def fill(template, *, run_id="abc", **tags):
    tags = {name.replace("_", "."): value for name, value in tags.items()}
    return PathTemplate(template).fill(version="3", run_id=run_id, tag=tags.get)


def test_places_are_filled_in():
    assert fill("data/{version}/{run_id}") == "data/3/abc"
    assert fill(BY_TAG, training_checkpoints="nightly/1 a") == "data/checkpoints/nightly/1 a"
    assert fill("data/same") == "data/same"


@pytest.mark.parametrize(
    "value",
    [
        "..",
        "../../etc",
        "/etc",
        "a/../b",
        "a//b",
        "a\\b",
        "${oc.env:HOME}",
        "a\nb",
        "{version}",
        "a/",
    ],
)
def test_a_tag_leads_nowhere_else(value):
    with pytest.raises(InputError, match="expected a path below data/checkpoints"):
        fill(BY_TAG, training_checkpoints=value)
    with pytest.raises(InputError, match="expected a path below data"):
        fill("data/{run_id}", run_id=value)


def test_what_a_version_lacks_is_named():
    with pytest.raises(InputError, match=r"version 3 has no tag:training\.checkpoints, which"):
        fill(BY_TAG)
    with pytest.raises(InputError, match="version 3 was registered by no run"):
        fill("data/{run_id}", run_id=None)


@pytest.mark.parametrize(
    "template",
    ["data/{alias}", "data/{tag:}", "data/{version", "data/}", "data/{{version}}"],
)
def test_a_template_has_known_places(template):
    with pytest.raises(ValueError, match="no other braces"):
        PathTemplate(template)


@pytest.mark.parametrize("template", ["{tag:x}", "../{tag:x}", "/{tag:x}", "{version}/{run_id}"])
def test_a_registry_does_not_choose_the_folder(template):
    with pytest.raises(ValueError, match="inside a folder that stands before it"):
        PathTemplate(template)
    PathTemplate(f"data/{template.strip('./')}")
    PathTemplate("{version}/checkpoints")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": ".."}, "name"),
        ({"name": "a/b"}, "name"),
        ({"newest": 0}, "newest"),
        ({"checkpoints": "{tag:x}"}, "inside a folder"),
        ({"parameters": {"tracking": {}}}, "parameters: expected groups"),
        ({"parameters": {"checkpoints": {"path": "x"}}}, "write it as checkpoints"),
    ],
)
def test_a_wrong_watch_is_refused(changes, message):
    sound = {
        "name": "churn",
        "checkpoints": "data/{version}",
        "parameters": {"task": {"class": "a.B"}},
    }
    assert WatchedModelParameters(**sound).newest == 3
    with pytest.raises(ValueError, match=message):
        WatchedModelParameters(**{**sound, **changes})


def test_a_model_is_watched_once():
    one = {"name": "churn", "checkpoints": "data/{version}"}
    with pytest.raises(ValueError, match="churn is named more than once"):
        TrackingParameters(pending=[one, {**one, "checkpoints": "other/{version}"}])


@pytest.mark.parametrize(
    "template",
    ["s3://bucket/{tag:place}", "runs:/{run_id}/checkpoints", "gs://b/{version}", "~/c/{run_id}"],
)
def test_an_address_has_places_below_its_bucket_or_server(template):
    assert fill(template, place="a/b").startswith(template.partition("{")[0])


@pytest.mark.parametrize("template", ["s3://{tag:bucket}/run", "file:///{tag:x}", "{tag:x}/a"])
def test_a_tag_chooses_no_bucket_and_no_disk(template):
    with pytest.raises(ValueError, match="may only choose inside a folder"):
        PathTemplate(template)
