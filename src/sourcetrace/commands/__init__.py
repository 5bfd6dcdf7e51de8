"""What the command `sourcetrace` can do besides `kedro run`, one module each."""

from collections.abc import Mapping

COMMANDS: Mapping[str, str] = {
    "adopt": "Write what another Kedro project needs to run an audit.",
    "audit": "Audit the model of this project; the exit code is the verdict.",
    "explain": "Show which training examples, and tokens of them, made a query so.",
    "sync": "Send what MLflow was not told of while its server was away.",
    "webhooks": "Receive MLflow's registry webhooks and audit what they announce.",
}
"""Name -> what it does. The click command has the name of its module, which is imported when it
is called."""
