"""The guide and docs/reference/audits.md say what the gate knows."""

import re

import pytest
import yaml
from tests import REPOSITORY

from sourcetrace.audit.gate.report import OUTCOMES
from sourcetrace.commands.options import EXIT_CODES
from sourcetrace.parameters import GateParameters, TrackingParameters
from sourcetrace.schemas.metric_names import METRICS

PAGE = "".join(
    (REPOSITORY / "docs" / page).read_text(encoding="utf-8")
    for page in ("guide/operating_it.md", "reference/audits.md")
)


def test_the_examples_are_valid():
    examples: dict = {}
    for text in re.findall(r"```yaml\n(.*?)```", PAGE, re.S):
        examples |= yaml.safe_load(text)
    assert GateParameters(**examples["gate"]).checks
    assert TrackingParameters(**examples["tracking"]).pending


@pytest.mark.parametrize("metric", METRICS)
def test_every_metric_is_explained(metric):
    assert re.search(rf"^\| .*`{metric}`.* \|", PAGE, re.M)


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_every_outcome_has_its_exit_code(outcome):
    assert re.search(rf"^\| {EXIT_CODES[outcome]} \| .*`{outcome}`", PAGE, re.M)
