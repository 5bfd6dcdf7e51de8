"""What another Kedro project needs to run the stages: a catalog and parameters to start from.

`catalog.yml` and `parameters.yml` are this project's own, with `{namespace}` where a name or a
folder begins, and `{task}` for the task's class. `python -m sourcetrace.starter.publish` writes
them after conf/base has changed.
"""

from pathlib import Path

PLACEHOLDER, TASK = "{namespace}", "{task}"
FILES = ("catalog", "parameters")


def starter_file(name: str, *, namespace: str, task: str) -> str:
    """Return the text of a file of `FILES` for a namespace and a task's import path."""
    text = (Path(__file__).parent / f"{name}.yml").read_text(encoding="utf-8")
    return text.replace(PLACEHOLDER, namespace).replace(TASK, task)
