"""Refuses environments and pipelines that are not there, and parameters like ours misspelt.

Kedro takes any name, and what nobody asks for does nothing: `segment.count=1` would be an audit
with the segments as they were.
"""

from collections.abc import Generator, Iterable, Mapping
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import click
from kedro.config import MissingConfigException
from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.framework.project import pipelines
from kedro.pipeline import Pipeline

from sourcetrace.configuration import refuse_unknown_environment
from sourcetrace.errors import InputError
from sourcetrace.formats import format_known
from sourcetrace.hooks.terminal import input_errors_shown
from sourcetrace.parameters import GROUPS
from sourcetrace.validation import validated

_OF_EVERY_AUDIT = {"task", "attribution"}
_AS_NEAR = 0.82
"""Ratio of difflib: `segment` and `aletrs` are ours, `training` and `reporting` are not."""


class MisspeltHook:
    """Ends a run before any work where it would ignore what was asked of it."""

    # Outside of TrackingServerHook, which would miss mlflow.yml; behind AlertHook, which tells.
    @hook_impl(wrapper=True, tryfirst=True)
    def after_context_created(self, context: KedroContext) -> Generator[None, Any, Any]:
        """Check the environment, the pipelines that a command asks for, and the parameters.

        Raises:
            InputError: If there is no such environment, pipeline, group or key.
        """
        loader: Any = context.config_loader
        with input_errors_shown():
            refuse_unknown_environment(Path(loader.conf_source), context.env)
            _refuse_asked_for()
            result = yield
            with suppress(MissingConfigException):
                refuse_misspelt(loader["parameters"], typed=loader.runtime_params or {})
            return result


def refuse_unknown_pipelines(names: Iterable[str], known: Mapping[str, Pipeline]) -> None:
    """Refuse names that no pipeline has.

    Raises:
        InputError: If there is one.
    """
    for name in names:
        if name not in known:
            raise InputError(f"There is no pipeline {name}. {format_known(name, known)}.")


def refuse_misspelt(parameters: Mapping[str, Any], *, typed: Mapping[str, Any]) -> None:
    """Refuse groups that are nearly called as an audit's, and unknown keys within an audit's.

    An audit's groups are where the task and the method are, under a namespace or under none. A
    group that a pipeline of the project takes is its own, however it is called, and so are values
    and what begins with an underscore, of which others are made.

    Args:
        parameters: All of the project.
        typed: Those of `--params`; without the namespace of the project's audit they do nothing.

    Raises:
        InputError: If there is one.
    """
    namespaces = _check(parameters, "")
    for name in _groups(typed) & GROUPS.keys() - _known(parameters, ""):
        if namespaces and not _is_taken(name):
            raise InputError(_refusal(name, f"{namespaces[0]}{name}"))


def _refuse_asked_for() -> None:
    command = click.get_current_context(silent=True)
    names = command.params.get("pipelines") if command else None
    if isinstance(names, list) and any(name not in pipelines for name in names):
        pipelines.set_requested(None)  # Kedro may have made those alone that are asked for.
        refuse_unknown_pipelines(names, pipelines)


def _check(parameters: Mapping[str, Any], place: str) -> list[str]:
    """Check the groups here and below, and return where audits are: `churn_audit.`, or `` ``."""
    own = _known(parameters, place)
    for name in own & parameters.keys():
        validated(GROUPS[name], parameters[name] or {}, name=f"{place}{name}")
    theirs = _groups(parameters) - own
    below = {name: _check(parameters[name] or {}, f"{place}{name}.") for name in theirs}
    audits = {name for name, found in below.items() if found}
    for name in theirs - audits:
        near = get_close_matches(name, own | audits, n=1, cutoff=_AS_NEAR)
        if near and not _is_taken(f"{place}{name}"):
            raise InputError(_refusal(f"{place}{name}", f"{place}{near[0]}"))
    here = [place] if parameters.keys() >= _OF_EVERY_AUDIT else []
    return here + [one for found in below.values() for one in found]


def _groups(parameters: Mapping[Any, Any]) -> set[str]:
    return {
        name
        for name, value in parameters.items()
        if isinstance(name, str) and not name.startswith("_") and isinstance(value, Mapping | None)
    }


def _known(parameters: Mapping[str, Any], place: str) -> set[str]:
    """Return what an audit's groups are called at a place; outside of audits it has the alerts."""
    if parameters.keys() >= _OF_EVERY_AUDIT:
        return set(GROUPS)
    return set() if place else {"alerts"}


def _refusal(name: str, near: str) -> str:
    return (
        f"Parameters: nothing of this project takes {name}. Did you mean {near}? (If it is a "
        "group of your own, give it a name less like one of the audit's.)"
    )


def _is_taken(group: str) -> bool:
    """Return whether a pipeline of the project takes a group of parameters, whole or in part."""
    pipelines.set_requested(None)
    taken = {name for one in pipelines.values() for name in one.inputs()}
    name = f"params:{group}"
    return any(one in {"parameters", name} or one.startswith(f"{name}.") for one in taken)
