"""docs/reference/scheduling.md and the parameters' file say what the code takes."""

import re

import pytest
import yaml

from sourcetrace.integrations.webhooks.events import REQUEST_TAG
from sourcetrace.integrations.webhooks.worker import SECRET_VARIABLE
from sourcetrace.parameters import AlertParameters
from tests import REPOSITORY

PAGE = (REPOSITORY / "docs/reference/scheduling.md").read_text(encoding="utf-8")


def test_the_documented_parameters_and_those_of_the_project_are_the_defaults():
    (documented,) = re.findall(r"```yaml\n.*?\n(alerts:.*?)```", PAGE, re.S)
    project = (REPOSITORY / "conf/base/parameters_alerts.yml").read_text(encoding="utf-8")
    for text in (documented, project):
        assert AlertParameters(**yaml.safe_load(text)["alerts"]) == AlertParameters()


@pytest.mark.parametrize("name", [SECRET_VARIABLE, f"`{REQUEST_TAG}`"])
def test_names_are_as_documented(name):
    assert name in PAGE


@pytest.mark.parametrize("status", [202, 400, 401, 404, 409, 413, 422])
def test_every_answer_of_the_receiver_is_documented(status):
    assert re.search(rf"^\| {status}\b", PAGE, re.M)
