"""What the command `sourcetrace` can do besides `kedro run`, one module each."""

from collections.abc import Mapping

COMMANDS: Mapping[str, str] = {
    "adopt": "sourcetrace.commands.adopt:adopt",
    "audit": "sourcetrace.commands.audit:audit",
    "sync": "sourcetrace.commands.sync:sync",
    "webhooks": "sourcetrace.commands.webhooks:webhooks",
}
"""Name -> where its click command is; imported when it is called."""
