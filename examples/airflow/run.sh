#!/usr/bin/env bash
# Runs the two ways to audit under Airflow 3, on a demo trained for two epochs, in build/airflow:
# the stages as tasks, made by kedro-airflow, and the DAG of one task beside this file. The first call
# installs Airflow into build/environments/airflow. Needs no server and starts none.
set -euo pipefail
cd "$(dirname "$0")/../.."
repository=$PWD
environment=$repository/build/environments/airflow
home=$repository/build/airflow
project=$home/project

if [ ! -e "$environment/.installed" ]; then
    python3 -m venv "$environment"
    "$environment/bin/pip" install --quiet -r examples/airflow/requirements.txt .
    touch "$environment/.installed"
fi

rm -rf "$home"
mkdir -p "$project/conf/nightly" "$project/airflow_dags"
git ls-files -z conf src pyproject.toml | xargs -0 cp --parents -t "$project"
ln -s "$environment" "$project/.venv"
cp examples/airflow/sourcetrace_audit.py "$project/airflow_dags"

export PATH=$environment/bin:$PATH PYTHONPATH=$project/src DO_NOT_TRACK=true
export AIRFLOW_HOME=$home AIRFLOW__CORE__DAGS_FOLDER=$project/airflow_dags
export AIRFLOW__CORE__LOAD_EXAMPLES=false AIRFLOW__LOGGING__LOGGING_LEVEL=WARNING
export AUDIT_PROJECT=$project
# Kedro, as the generated DAG uses it, takes the current folder for the project.
cd "$project"

kedro run --pipelines demo_training --params demo.epochs=2,demo.checkpoints=2
kedro airflow create --pipelines audit --group-by memory --env nightly \
    --params schedule="30 2 * * *",retries=0,max_active_runs=1
airflow db migrate

ended() {  # DAG: how its last run ended. Warnings stand before the list, on the same stream.
    airflow dags list-runs "$1" --output json | tail -n 1 | python -c \
        'import json, sys; print(max(json.load(sys.stdin), key=lambda one: one["run_after"])["state"])'
}

for dag in sourcetrace sourcetrace_audit; do
    rm -rf data/08_reporting
    started=$SECONDS
    airflow dags test "$dag"
    state=$(ended "$dag")
    outcome=$(python -c 'import json; print(json.load(open("data/08_reporting/gate.json"))["outcome"])')
    echo "DAG $dag: $state, audit: $outcome, $((SECONDS - started)) seconds"
    [ "$state" = success ]
done

# A gate that fails must turn the task red.
echo "gate: {checks: [{metric: harmful_share, at_most: -1.0}]}" >conf/nightly/parameters.yml
for dag in sourcetrace sourcetrace_audit; do
    airflow dags test "$dag" >"$home/failing.log" 2>&1 || true
    state=$(ended "$dag")
    echo "DAG $dag with a gate that fails: $state"
    [ "$state" = failed ]
done
