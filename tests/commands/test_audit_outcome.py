"""How the audit of a version is taken to have come out: by its exit code and by the registry."""

from types import SimpleNamespace

import pytest

from sourcetrace.commands import audit_pending as command
from sourcetrace.tracking.scheduling.planned_version import PlannedVersion

VERSION = PlannedVersion("churn", "3", "audit", "never audited", "data/3", {"task": {}})
BEFORE = {"audit.status": "pass", "audit.run_id": "before"}


@pytest.fixture
def audit_one(monkeypatch):
    def audit(code, *tags_in_turn):
        answers = iter(tags_in_turn)

        class Client:
            def get_model_version(self, name, version):
                assert (name, version) == ("churn", "3")
                answer = next(answers)
                if isinstance(answer, Exception):
                    raise answer
                return SimpleNamespace(tags=answer)

        monkeypatch.setattr(command, "MlflowClient", Client)
        result = command._audit_one(VERSION, lambda _: code)
        return result.outcome, result.exit_code, result.message

    return audit


@pytest.mark.parametrize(
    ("code", "status", "expected"),
    [
        (0, "pass", 0),
        (0, "warn", 0),
        (1, "fail", 1),
        (3, "inconclusive", 3),
        # The gate passed; the training data was exchanged.
        (0, "fail", 1),
    ],
)
def test_the_registry_says_the_outcome(audit_one, code, status, expected):
    after = {"audit.status": status, "audit.run_id": "after"}
    assert audit_one(code, BEFORE, after) == (status, expected, "")
    assert audit_one(code, {}, after) == (status, expected, "")


@pytest.mark.parametrize(
    ("code", "answers", "message"),
    [
        (2, [BEFORE, BEFORE], "messages above"),
        (-9, [BEFORE, BEFORE], "ended by SIGKILL"),
        (0, [BEFORE, BEFORE], "MLflow was not told"),
        (0, [BEFORE, {"audit.status": "running", "audit.run_id": "after"}], "was not told"),
        (
            0,
            [BEFORE, RuntimeError("no answer from http://a:b@c\nx")],
            "no answer from http://***@c",
        ),
        (0, [RuntimeError("no answer")], "no answer"),
    ],
)
def test_without_a_verdict_in_the_registry_it_is_an_error(audit_one, code, answers, message):
    outcome, exit_code, said = audit_one(code, *answers)
    assert (outcome, exit_code) == ("error", 2)
    assert message in said
    assert "\n" not in said


def test_the_worst_decides():
    assert command.WORST_FIRST == (2, 1, 3, 0)
