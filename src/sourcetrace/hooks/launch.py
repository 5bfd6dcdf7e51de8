"""Several processes: all but the first become workers, and are told what the first one runs."""

import sys
from collections.abc import Generator, Mapping
from functools import partial
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any

from kedro.config import MissingConfigException
from kedro.framework.context import KedroContext
from kedro.framework.context.context import _convert_paths_to_absolute_posix
from kedro.framework.hooks import hook_impl
from kedro.pipeline import Pipeline

from sourcetrace.hooks.terminal import input_errors_shown
from sourcetrace.imports import lasting
from sourcetrace.namespace import stages_of
from sourcetrace.work.crew import CREW
from sourcetrace.work.orders import OrderFile
from sourcetrace.work.ranks import Rank

_SHARED = "GradientCacheDataset"


class LaunchHook:
    """Has the other processes of an audit do their part."""

    def __init__(self) -> None:
        self._file: OrderFile | None = None

    # The outermost: a worker tells MLflow nothing, and nobody of what is wrong with conf/.
    @hook_impl(wrapper=True, tryfirst=True)
    def after_context_created(self, context: KedroContext) -> Generator[None, Any, Any]:
        """Become a worker, where torchrun or another started this process as one of several.

        Raises:
            InputError: If it is not known which one this is, or the first has no locks to lead the
                others by.
        """
        with input_errors_shown():
            rank = Rank.here()
        if rank.number and (file := _order_file(context, rank)):
            sys.path.append(str(context.project_path))
            # Now, as the stages' pipelines are: it imports torch.
            worker = import_module("sourcetrace.pipelines.worker")
            worker.serve(_configuration(context), file.follow())
        with lasting():  # stages are imported, and MLflow's store
            result = yield
        # Once: the sessions of a process, for pipeline after pipeline, are one launch.
        if rank.size > 1 and self._file is None and (file := _order_file(context, rank)):
            with input_errors_shown():
                file.lead()
            self._file = file
        CREW.prepare(partial(_configuration, context), self._file)
        return result

    @hook_impl
    def before_pipeline_run(self, pipeline: Pipeline) -> None:
        """Note what the nodes of this run read."""
        nodes = {one.func.__name__: one for one in stages_of(pipeline)}
        CREW.begin(
            {
                name: dict(zip(signature(one.func).parameters, one.inputs, strict=False))
                for name, one in nodes.items()
            }
        )

    @hook_impl
    def after_pipeline_run(self) -> None:
        """End the processes that this one started."""
        CREW.dismiss()

    on_pipeline_error = after_pipeline_run


def _order_file(context: KedroContext, rank: Rank) -> OrderFile | None:
    """Return where orders go, beside the units of the catalog's first audit; None without one."""
    entries = (one for _, one in sorted(_catalog(context).items()) if isinstance(one, dict))
    shared = (one["path"] for one in entries if str(one.get("type", "")).endswith(_SHARED))
    folder = next(shared, None)
    return None if folder is None else OrderFile(Path(folder) / "orders", rank.launch)


def _configuration(context: KedroContext) -> Mapping[str, Any]:
    """Return what the session is of, in words of YAML."""
    loader: Any = context.config_loader
    try:
        credentials = loader["credentials"]
    except MissingConfigException:
        credentials = {}
    return {
        "catalog": _catalog(context),
        "credentials": credentials,
        "parameters": loader["parameters"],
        "path": sys.path,
    }


def _catalog(context: KedroContext) -> dict[str, Any]:
    loader: Any = context.config_loader
    return _convert_paths_to_absolute_posix(context.project_path, loader["catalog"])
