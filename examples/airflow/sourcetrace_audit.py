"""A nightly audit as a DAG of one task. Copy it into Airflow's folder of DAGs.

Airflow and the project keep their own environments: the task calls the project's interpreter. The
task fails with every exit code but 0, see docs/guide/operating_it.md, and is skipped while another
audit of the project runs. Airflow does not run it again: an audit that failed fails again.
"""

import os
from datetime import datetime

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import dag

PROJECT = os.environ.get("AUDIT_PROJECT", "/srv/churn")
BUSY = 75


@dag(
    schedule="30 2 * * *",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 0},
)
def sourcetrace_audit():
    BashOperator(
        task_id="audit",
        cwd=PROJECT,
        bash_command=f"flock -n -E {BUSY} data/audit.lock "
        '.venv/bin/python -m sourcetrace audit --env "${AUDIT_ENV:-nightly}"',
        skip_on_exit_code=BUSY,
    )


sourcetrace_audit()
