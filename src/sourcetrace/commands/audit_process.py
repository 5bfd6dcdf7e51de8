"""An audit as a process of its own, with parameters in a file that nobody else can read."""

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sourcetrace.interruption import BY_SIGNAL, Interrupted, wait_or_kill

_SECONDS_TO_END = 10


def run_audit(
    parameters: Mapping[str, Any], *, env: str | None, pipelines: Sequence[str], verbose: bool
) -> int:
    """Run `sourcetrace audit` with parameters, and return its exit code.

    What it says goes to standard error.

    Raises:
        Interrupted: If it was.
    """
    with tempfile.TemporaryDirectory(prefix="sourcetrace-") as folder:
        # Not on the command line: a value may hold a comma, or a secret.
        file = Path(folder) / "parameters.json"
        file.write_text(json.dumps(parameters), encoding="utf-8")
        command = [sys.executable, "-m", "sourcetrace", "audit", "--output", "json"]
        command += ["--params-file", str(file), "--pipelines", ",".join(pipelines)]
        command += ["--env", env] if env is not None else []
        command += ["--verbose"] if verbose else []
        # Of its verdict the exit code is enough; gate.json is a file as well.
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)  # noqa: S603, our own words
        try:
            code = process.wait()
        except BaseException:
            process.send_signal(signal.SIGINT)  # a terminal's Ctrl-C has reached it already
            wait_or_kill(process, _SECONDS_TO_END)
            raise
    if code in BY_SIGNAL:
        raise Interrupted(code)
    return code
