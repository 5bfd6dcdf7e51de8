"""What a process does that is not the first of an audit: stages of units, as it is told.

It has no Kedro session and tells MLflow nothing. It reads what the first process has saved, makes
what the stage works with, does its share of the units, and forgets what a stage returns.
"""

import logging
import os
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property, reduce
from importlib import import_module
from inspect import signature
from operator import getitem
from queue import Queue
from typing import Any

from kedro.io import DataCatalog

from sourcetrace.datasets.entries import open_catalog
from sourcetrace.errors import InputError
from sourcetrace.parameters import LaunchParameters
from sourcetrace.pipelines.set_up.audit_setup import AuditSetup
from sourcetrace.pipelines.set_up.nodes import set_up_audit
from sourcetrace.pipelines.shared.inputs import Ingested, check_inputs
from sourcetrace.progress import hide_progress
from sourcetrace.validation import validated
from sourcetrace.work.ranks import Rank

logger = logging.getLogger(__name__)

_ERROR = 2
"""Exit code, that of a command without a verdict."""

_PARAMETERS = "params:"
_TELLS_MLFLOW = "MlflowArtifactDataset"

STAGES = {
    "gradient_extraction": ("extract_gradients", "gradient_extraction.work", "extract"),
    "ekfac_fitting": ("fit_curvature", "ekfac_fitting.work", "fit"),
    "source_scoring": ("score_examples", "source_scoring.work", "score"),
    "verification": ("retrain_groups", "verification.nodes", "retrain_groups"),
    "verify_cleaning": ("retrain_cleaned", "verify_cleaning.nodes", "retrain_cleaned"),
}
"""Stage -> its node, and the module and name of the work that it hands to a team."""


def serve(configuration: Mapping[str, Any], orders: Iterator[Mapping[str, Any]]) -> None:
    """Do what is ordered until there are no more orders, then end the process.

    Args:
        configuration: Catalog, credentials and parameters of the first process.
        orders: Each is the number of a run, what its nodes read, the stage and torch's threads.
    """
    hide_progress()
    logging.basicConfig(format=f"Rank {Rank.here().number}: %(message)s", force=True)
    logging.root.handlers[0].setLevel(logging.WARNING)
    # Deprecations, as in conf/logging.yml.
    logging.captureWarnings(capture=True)
    logging.getLogger("py.warnings").setLevel(logging.ERROR)
    given: Queue[Mapping[str, Any]] = Queue()
    threading.Thread(target=_ends, args=(lambda: _listen(orders, given),), daemon=True).start()
    _ends(lambda: _obey(configuration, given))


def _ends(work: Callable[[], None]) -> None:
    """End the process with work, whatever else it is at, and say why if it failed."""
    try:
        work()
    except InputError as error:
        logger.error("%s", error)
    except BaseException:
        logger.error("%s", traceback.format_exc())
    else:
        os._exit(0)
    os._exit(_ERROR)


def _listen(orders: Iterator[Mapping[str, Any]], given: "Queue[Mapping[str, Any]]") -> None:
    for order in orders:
        given.put(order)


def _obey(configuration: Mapping[str, Any], given: "Queue[Mapping[str, Any]]") -> None:
    run = None
    while True:
        order = given.get()
        while not given.empty():  # what was ordered before the newest is done
            order = given.get()
        if run is None or run.number != order["run"]:
            run = _Run(configuration, order)
        run.do(order["stage"])


class _Run:
    """A run of the first process, as far as a worker takes part in it."""

    def __init__(self, configuration: Mapping[str, Any], order: Mapping[str, Any]) -> None:
        self.number = order["run"]
        self._inputs, self._threads = order["inputs"], order["threads"]
        self._parameters = configuration["parameters"]
        self._catalog = DataCatalog.from_config(
            {name: _without_mlflow(one) for name, one in configuration["catalog"].items()},
            credentials=configuration["credentials"],
        )
        open_catalog(self._catalog)

    def do(self, stage: str) -> None:
        """Do this process's share of a stage."""
        node, module, name = STAGES[stage]
        work = getattr(import_module(f"sourcetrace.pipelines.{module}"), name)
        made = {"ingested", "setup"}.intersection(signature(work).parameters)
        self._call(work, node, **{name: getattr(self, name) for name in made})

    @cached_property
    def ingested(self) -> Ingested:
        """The inputs of retrainings, which read all."""
        found: Ingested = self._call(check_inputs, "check_inputs", every_byte=True)
        return found

    @cached_property
    def setup(self) -> AuditSetup:
        """What the numerical stages work with."""
        launch = self._read(self._inputs["set_up_audit"]["launch"], LaunchParameters)
        ingested = self._call(check_inputs, "check_inputs", every_byte=launch.read == "all")
        found: AuditSetup = self._call(set_up_audit, "set_up_audit", ingested=ingested)
        return found

    def _call(self, function: Callable[..., Any], node: str, **made: Any) -> Any:
        """Call a function with what is made, and else with what a node of its arguments reads."""
        wanted = [one for name, one in signature(function).parameters.items() if name not in made]
        names = self._inputs.get(node, {})
        read = {one.name: self._read(names[one.name], one.annotation) for one in wanted}
        return function(**made, **read)

    def _read(self, name: str, model: Any) -> Any:
        if not name.startswith(_PARAMETERS):
            return self._catalog.load(name)
        group = name.removeprefix(_PARAMETERS)
        found = validated(model, reduce(getitem, group.split("."), self._parameters), name=group)
        # The first process's threads: the last bits depend on their number.
        told = {"threads": self._threads} if isinstance(found, LaunchParameters) else {}
        return found.model_copy(update=told)


def _without_mlflow(entry: Any) -> Any:
    """Return a catalog's entry without what tells MLflow of it."""
    if isinstance(entry, dict) and str(entry.get("type", "")).endswith(_TELLS_MLFLOW):
        return {**entry["dataset"], **{k: one for k, one in entry.items() if k == "validator"}}
    return entry
