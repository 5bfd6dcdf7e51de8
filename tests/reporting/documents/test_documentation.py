"""docs/reference/governance.md names what an audit really leaves."""

import re

import yaml

from sourcetrace.parameters import TrackingParameters
from sourcetrace.schemas.metric_names import METRICS
from tests import REPOSITORY

PAGE = (REPOSITORY / "docs/reference/governance.md").read_text(encoding="utf-8")
# Written by the audit's end and by Kedro's user.
OTHERS = {"openlineage.jsonl"}


def test_the_example_is_valid():
    (example,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.S)
    assert TrackingParameters(**yaml.safe_load(example)["tracking"]).openlineage


def test_every_file_is_one_of_the_catalog():
    catalog = (REPOSITORY / "conf/base/catalog.yml").read_text(encoding="utf-8")
    named = set(re.findall(r"`(?:data/\w+/)?([\w.]+\.(?:json|jsonl|md|csv|parquet|html))`", PAGE))
    assert len(named) > 5
    assert {name for name in named - OTHERS if f"/{name}" not in catalog} == set()


def test_every_metric_is_one_of_the_gate():
    named = set(re.findall(r"`(\w+_(?:share|concentration|loss)|trust_\w+)`", PAGE))
    assert named
    assert named <= set(METRICS)
