"""docs/audits.md says what the gate knows."""

import re
from pathlib import Path

import pytest
import yaml

from sourcetrace.commands import audit as command
from sourcetrace.gate.metric_names import METRICS
from sourcetrace.gate.report import OUTCOMES
from sourcetrace.parameters import GateParameters

PAGE = (Path(__file__).parents[2] / "docs/audits.md").read_text(encoding="utf-8")


def test_the_example_is_valid():
    (example,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.S)
    assert GateParameters(**yaml.safe_load(example)["gate"]).checks


@pytest.mark.parametrize("metric", METRICS)
def test_every_metric_is_explained(metric):
    assert re.search(rf"^\| .*`{metric}`.* \|", PAGE, re.M)


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_every_outcome_has_its_exit_code(outcome):
    assert re.search(rf"^\| {command.EXIT_CODES[outcome]} \| .*`{outcome}`", PAGE, re.M)
