"""An installation without extras has their packages neither at its start nor in its settings."""

import subprocess
import sys

import pytest

from sourcetrace.errors import InputError
from sourcetrace.integrations import extra

# starlette, uvicorn and requests come with MLflow.
WITHOUT = """
import sys
sys.modules |= dict.fromkeys(["cyclonedx", "openlineage", "packageurl", "tenacity"])
import sourcetrace.settings
import sourcetrace.commands.audit
import sourcetrace.commands.webhooks
"""


@pytest.mark.slow
def test_settings_and_commands_need_none():
    subprocess.run([sys.executable, "-c", WITHOUT], check=True)


def test_other_errors_of_an_import_are_their_own():
    with (
        pytest.raises(ImportError) as raised,
        extra("alerts", because="An address is set"),
    ):
        from json import no_such_name  # noqa: F401
    assert not isinstance(raised.value, InputError)
