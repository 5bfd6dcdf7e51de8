"""What becomes of the runs of a project that did not end."""

import mlflow

from sourcetrace.tracking.server.tracked import _Tracked


def test_a_run_that_is_gone_on_with_is_not_among_those_that_were_killed(client, tmp_path):
    mlflow.set_experiment("audits")
    tracked, log = _Tracked(), tmp_path / "audit_log.jsonl"
    with mlflow.start_run() as killed:
        tracked.end_killed(log)
    client.update_run(killed.info.run_id, "RUNNING")
    with mlflow.start_run() as run:
        for _ in range(2):
            tracked.end_killed(log)
            assert client.get_run(run.info.run_id).info.status == "RUNNING"
    assert client.get_run(killed.info.run_id).info.status == "KILLED"
