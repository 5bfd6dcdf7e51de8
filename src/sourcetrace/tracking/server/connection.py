"""Whether MLflow's server answers, and what is done with what it cannot be told.

The first call that gets no answer opens the circuit: until the next run begins nobody asks the
server again, so that an outage costs a few seconds once, and what a run logs goes to its journal.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from mlflow.entities import Run

from sourcetrace.tracking.server.journal import RUN_KEY, Journal, WaitingRun, open_journal
from sourcetrace.tracking.server.outage import ServerAway, is_denial, is_outage, reason_of

logger = logging.getLogger(__name__)

Answer = TypeVar("Answer")


class Connection:
    """What this process knows of its server.

    Attributes:
        reason: Why the server is away; None while it answers.
        experiments: Id -> name, of those asked for.
        sync_command: What sends later what the server missed.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self.experiments: dict[str, str] = {}
        self.sync_command = "sourcetrace sync"
        self._folder: Path | None = None
        self._runs: dict[str, Run] = {}
        self._journals: dict[str, Journal] = {}
        self._only_server = False
        self._lock = threading.RLock()

    @property
    def away(self) -> bool:
        """Whether the server is not asked any more."""
        return self.reason is not None

    def reset(self, *, environment: str | None = None) -> None:
        """Ask the server again; what an earlier run of this process left is its own.

        Args:
            environment: Kedro's, that names the server; None for the default one.
        """
        self.close()
        self.sync_command = "sourcetrace sync" + (f" --env {environment}" if environment else "")
        self.reason = None
        self.experiments, self._runs, self._folder = {}, {}, None

    def begin(self, folder: Path) -> None:
        """Keep what the run to come cannot tell the server in a folder."""
        self._folder = folder
        if self.away:
            self._warn()

    def close(self) -> None:
        """Let `sourcetrace sync` have what waits."""
        for journal in self._journals.values():
            journal.close()
        self._journals = {}

    @contextmanager
    def only_server(self) -> Iterator[None]:
        """Raise `ServerAway` where a journal would be written."""
        before, self._only_server = self._only_server, True
        try:
            yield
        finally:
            self._only_server = before

    def ask(self, call: Callable[[], Answer], *, survives_denial: bool = False) -> Answer:
        """Return the server's answer.

        Args:
            call: Asks it.
            survives_denial: Whether a server that refuses counts as away, too.

        Raises:
            ServerAway: If there is none, or there was none before.
        """
        with self._lock:
            if self.reason is not None:
                raise ServerAway(self.reason)
        try:
            return call()
        except Exception as error:
            if not is_outage(error) and not (survives_denial and is_denial(error)):
                raise
            with self._lock:
                if self.reason is None:
                    self.reason = reason_of(error)
                    if self._folder is not None:
                        self._warn()
            raise ServerAway(self.reason or "") from error

    def tell(self, run_id: str, send: Callable[[], None], keep: Callable[[Journal], None]) -> None:
        """Tell the server of a run, or its journal.

        A run that has begun goes on where its permission ends, too: a token may expire at night.

        Raises:
            ServerAway: If there is neither.
        """
        if run_id not in self._journals:
            try:
                self.ask(send, survives_denial=True)
            except ServerAway:
                pass
            else:
                return
        with self._lock:
            keep(self._journal(run_id))

    def remember(self, run: Run) -> Run:
        """Know a run that the server has, for when it goes away."""
        self._runs[run.info.run_id] = run
        return run

    def known(self, run_id: str) -> Run:
        """Return a run as the server told of it last, with what waits.

        Raises:
            ServerAway: If the server told of none.
        """
        if self._only_server or run_id not in self._runs:
            raise ServerAway(self.reason or "")
        journal = self._journals.get(run_id)
        before = self._runs[run_id]
        return journal.run.to_run(before) if journal else before

    def begin_run(self, key: str, **about: Any) -> Journal:
        """Begin the journal of a run that the server does not know.

        Args:
            key: Names the run; its id on this machine, too.
            about: What else `WaitingRun` needs.
        """
        with self._lock:
            run = WaitingRun(folder=self._folder_to_keep_in() / key, key=key, run_id=None, **about)
            self._journals[key] = Journal.begin(run)
            return self._journals[key]

    def _journal(self, run_id: str) -> Journal:
        """Return the journal of a run, begun where there is none."""
        folder = self._folder_to_keep_in()
        if run_id not in self._journals:
            self._journals[run_id] = self._take_over(run_id, folder / run_id)
        return self._journals[run_id]

    def _take_over(self, run_id: str, folder: Path) -> Journal:
        if folder.exists() and (found := open_journal(folder)):
            return found
        run = self._runs.get(run_id)
        if run is None:
            raise ServerAway(self.reason or "")
        info = run.info
        return Journal.begin(
            WaitingRun(
                folder=folder,
                key=run.data.tags.get(RUN_KEY, run_id),
                run_id=run_id,
                experiment=self.experiments.get(info.experiment_id),
                experiment_id=info.experiment_id,
                name=info.run_name,
                user=info.user_id,
                start_time=info.start_time,
            )
        )

    def _folder_to_keep_in(self) -> Path:
        if self._folder is None or self._only_server:
            raise ServerAway(self.reason or "")
        return self._folder

    def _warn(self) -> None:
        logger.warning(
            "MLflow's server is away (%s). The run goes on without it: parameters, metrics, tags "
            "and artifacts are kept in %s. When the server is back, run: %s",
            self.reason,
            self._folder,
            self.sync_command,
        )


CONNECTION = Connection()
"""Of this process: MLflow, too, has one server a process."""
