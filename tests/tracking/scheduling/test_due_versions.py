"""Which registered versions are audited, and the reason that is given for each."""

from dataclasses import replace

import pytest
import torch
from mlflow.exceptions import MlflowException

from sourcetrace.audit.identity.audit_key import AuditKey
from sourcetrace.errors import InputError
from sourcetrace.parameters import WatchedModelParameters
from sourcetrace.tracking.scheduling.due_versions import plan_audits

# MLflow's own use of SQLAlchemy, and of the stages it deprecates.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

KEY = AuditKey("0.1.0", "data", "checkpoints", "parameters", "limits")


@pytest.fixture
def watched(tmp_path):
    return WatchedModelParameters(name="churn", checkpoints=f"{tmp_path}/checkpoints/{{version}}")


@pytest.fixture
def versions(client, start_run, register, tmp_path):
    """Register versions with checkpoints, each with some tags."""

    def make(*tags_of_each, folder=True):
        for tags in tags_of_each:
            number = register(start_run(**tags.pop("run", {})))
            for key, value in tags.items():
                client.set_model_version_tag("churn", number, key.replace("_", "."), value)
            if folder:
                path = tmp_path / "checkpoints" / str(number)
                path.mkdir(parents=True)
                torch.save({}, path / "step_1.pt")

    return make


def plan(client, *watched, key=KEY, **options):
    def current_key(_):
        if isinstance(key, Exception):
            raise key
        return key

    planned = plan_audits(client, watched, current_key=current_key, **options)
    return [(one.version, one.action, one.reason) for one in planned]


def test_a_version_without_a_place_is_what_mlflow_has_of_it(client, versions):
    versions({}, audited("pass"), folder=False)
    named = []

    def current_key(parameters):
        named.append(parameters["checkpoints"]["path"])
        return KEY

    watched = WatchedModelParameters(name="churn")
    planned = plan_audits(client, [watched], current_key=current_key)
    assert [one.checkpoints for one in planned] == ["models:/churn/1", "models:/churn/2"]
    assert [one.action for one in planned] == ["audit", "skip"]
    # What is not here yet is fetched where there is an audit to compare with, not before.
    assert named == ["models:/churn/2"]


def audited(status, key=KEY):
    return {"audit_status": status, "audit_key": key.text}


@pytest.mark.parametrize("status", ["pass", "warn", "fail", "inconclusive"])
def test_a_finished_audit_of_what_is_there_now_is_not_repeated(client, versions, watched, status):
    versions(audited(status))
    assert plan(client, watched) == [("1", "skip", f"audited: {status}")]
    assert plan(client, watched, force=True) == [("1", "audit", "--force")]


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({}, "never audited"),
        (audited("running"), "its audit was killed"),
        (audited("error"), "its audit broke off"),
        (audited("unjudged"), "no gate judged it"),
        ({"audit_status": "pass"}, "it is not known what its audit was of"),
        ({"audit_status": "pass", "audit_key": "none"}, "it is not known what its audit was of"),
        (audited("pass", replace(KEY, data="x")), "data changed"),
        (audited("fail", replace(KEY, checkpoints="x")), "checkpoints changed"),
        (
            audited("pass", replace(KEY, parameters="x", limits="y")),
            "parameters changed, limits changed",
        ),
        (audited("pass", replace(KEY, sourcetrace="0.0.9")), "sourcetrace 0.0.9 became 0.1.0"),
    ],
)
def test_any_other_is_audited_and_the_plan_says_why(client, versions, watched, tags, reason):
    versions(tags)
    assert plan(client, watched) == [("1", "audit", reason)]


def test_nothing_is_read_of_versions_that_are_audited_anyway(client, versions, watched):
    versions({}, audited("running"))
    planned = plan(client, watched, key=AssertionError())
    assert [action for _, action, _ in planned] == ["audit", "audit"]


def test_old_archived_and_tagged_versions_are_left_out(client, versions, watched):
    versions({}, {}, {"audit_skip": "bad run"}, {"audit_skip": "false"}, {})
    client.transition_model_version_stage("churn", "2", "Archived")
    client.delete_model_version("churn", "5")
    assert plan(client, watched) == [
        ("1", "skip", "older than the 3 newest"),
        ("2", "skip", "archived"),
        ("3", "skip", "tag audit.skip"),
        ("4", "audit", "never audited"),
    ]
    everything = watched.model_copy(update={"newest": None})
    assert plan(client, everything)[0] == ("1", "audit", "never audited")


def test_a_broken_version_or_model_does_not_hide_the_others(client, versions, watched):
    versions({}, folder=False)
    versions({})
    gone = WatchedModelParameters(name="gone", checkpoints="data/{version}")
    client.create_registered_model("empty")
    empty = WatchedModelParameters(name="empty", checkpoints="data/{version}")
    first, second, third, fourth = plan(client, gone, watched, empty)
    assert first[:2] == ("", "error")
    assert "there is no registered model 'gone'" in first[2]
    assert second[:2] == ("1", "error")
    assert "there is no folder" in second[2]
    assert third == ("2", "audit", "never audited")
    assert fourth == ("", "skip", "no version is registered")


def test_what_keeps_the_key_from_being_known_is_the_versions_error(client, versions, watched):
    versions(audited("pass"))
    assert plan(client, watched, key=InputError("no such file")) == [("1", "error", "no such file")]


def test_a_registry_that_does_not_answer_is_no_empty_plan(client, watched):
    class Down:
        def get_registered_model(self, _):
            raise MlflowException("no answer")

    with pytest.raises(MlflowException, match="no answer"):
        plan(Down(), watched)


def test_the_path_may_come_from_a_tag_of_the_version_or_of_its_training(client, versions, tmp_path):
    watched = WatchedModelParameters(
        name="churn", checkpoints=f"{tmp_path}/checkpoints/{{tag:training.checkpoints}}"
    )
    versions(
        {"run": {"training.checkpoints": "1"}},
        {"run": {"training.checkpoints": "1"}, "training_checkpoints": "2"},
        {"training_checkpoints": "../1"},
    )
    planned = plan_audits(client, [watched], current_key=lambda _: KEY)
    assert [one.checkpoints.rpartition("/")[2] for one in planned] == ["1", "2", ""]
    assert "expected a path below" in planned[2].reason


def test_an_audit_has_its_models_parameters_below_the_command_lines(client, versions, tmp_path):
    watched = WatchedModelParameters(
        name="churn",
        checkpoints=f"{tmp_path}/checkpoints/{{version}}",
        parameters={
            "task": {"class": "churn.Churn", "arguments": {"text": "a, b=c"}},
            "checkpoints": {"stages": {"training": 5}},
            "attribution": {"method": "influence", "seed": 3},
        },
    )
    versions({})
    given = {
        "attribution": {"method": "tracin"},
        "checkpoints": {"path": "elsewhere"},
        "tracking": {"registered_model": {"name": "other", "alias": "x"}},
    }
    (planned,) = plan_audits(client, [watched], current_key=lambda _: KEY, given=given)
    assert planned.parameters == {
        "task": {"class": "churn.Churn", "arguments": {"text": "a, b=c"}},
        "checkpoints": {"stages": {"training": 5}, "path": f"{tmp_path}/checkpoints/1"},
        "attribution": {"method": "tracin", "seed": 3},
        "tracking": {"registered_model": {"name": "churn", "version": "1", "alias": None}},
    }


def test_a_tag_that_is_no_name_of_a_file_is_that_versions_error(client, versions, tmp_path):
    versions({"run.path": "x" * 300}, {"run.path": "2"})
    watched = WatchedModelParameters(
        name="churn", checkpoints=f"{tmp_path}/checkpoints/{{tag:run.path}}"
    )
    broken, other = plan(client, watched)
    assert broken[:2] == ("1", "error")
    assert other[:2] == ("2", "audit")
