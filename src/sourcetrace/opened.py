"""An audit's outputs opened to be read, in a notebook or a script: no task, no model, no torch."""

import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl

from sourcetrace.configuration import (
    LOADER_ARGUMENTS,
    ParameterAwareConfigLoader,
    refuse_unknown_environment,
)
from sourcetrace.datasets.score_files import ScoreFiles, listed_strongest, stored_scores
from sourcetrace.errors import InputError
from sourcetrace.formats import format_names
from sourcetrace.reporting.explanation import Explanations
from sourcetrace.reporting.queries.view import SHOWN_A_SIDE, QueryView, query_places

_SCORES = "attribution_scores"
_ENDINGS = (".parquet", ".json", "")


class OpenAudit:
    """The tables of an audit, each looked for when it is asked for.

    They are read as they are; whether they belong together is checked by the stages and by
    `sourcetrace explain`.
    """

    def __init__(self, root: Path, files: Mapping[str, Path]) -> None:
        self._root, self._files = root, files

    @property
    def review_list(self) -> pl.LazyFrame:
        """`schemas.ReviewList`: every training example, the most suspicious first."""
        return self.table("review_list")

    @property
    def signals(self) -> pl.LazyFrame:
        """`schemas.ExampleSignals`: losses and gradients at every checkpoint."""
        return self.table("example_signals")

    @property
    def groups(self) -> pl.LazyFrame:
        """What the suspects have in common, the most harmful group first."""
        return self.table("suspect_groups")

    def scores(self, query_id: str | None = None) -> pl.LazyFrame:
        """Return `example_id` and `scores`, one a query; or the `score` for one query.

        Raises:
            InputError: If there is no such query, or the audit kept no scores.
        """
        table = self.table(_SCORES)
        if query_id is None:
            return table.select("example_id", stored_scores(table))
        ids = self.table("query_table").select("example_id").collect()["example_id"].to_list()
        (place,) = query_places([query_id], ids)
        return table.select("example_id", score=stored_scores(table, place))

    def table(self, name: str) -> pl.LazyFrame:
        """Return a table by the name that it has in the catalog.

        Raises:
            InputError: If it is not there.
        """
        place = self._place(name)
        parts = sorted(place.glob("part-*.parquet")) if place.is_dir() else [place]
        return pl.scan_parquet(parts, glob=False, hive_partitioning=False)

    def explain(self, *query_ids: str, strongest: int = SHOWN_A_SIDE) -> Explanations:
        """Return what `sourcetrace explain` says of audited queries, without their tokens.

        Args:
            query_ids: Their names in the query table.
            strongest: How many helpers, and harmers, of each.

        Raises:
            InputError: If a query, or a table, is not there.
        """
        return explain_stored(self._load, query_ids, strongest)

    def _load(self, name: str) -> Any:
        if name == "score_files":
            return ScoreFiles(self._place(_SCORES))
        place = self._place(name)
        if place.suffix == ".json":
            return json.loads(place.read_text(encoding="utf-8"))
        return self.table(name).collect()

    def _place(self, name: str) -> Path:
        """Return the file of an entry, or its folder of `part-*.parquet`."""
        known = self._files.get(name)
        patterns = [f"{depth}{name}{end}" for depth in ("", "*/", "*/*/") for end in _ENDINGS]
        places = [known] if known else [one for each in patterns for one in self._root.glob(each)]
        found = [one for one in places if one.is_file() or any(one.glob("part-*.parquet"))]
        if len(found) == 1:
            return found[0]
        if found:
            raise InputError(
                f"{self._root} holds several audits, whose {name} are {format_names(found)}: "
                "expected one. Open the folder that holds one alone, or the project with its env."
            )
        raise InputError(
            f"There is no {name} in {known or self._root}. Expected a project's folder or its "
            "data/; the artifacts of a run have review_list and checkpoint_manifest, and of single "
            "queries the report alone. Run `kedro run --pipelines audit` where it was audited, or "
            "copy data/ from there, without data/04_feature/gradients and data/06_models."
        )


def open_audit(path: str | Path, env: str | None = None) -> OpenAudit:
    """Return an audit's outputs.

    Args:
        path: The project's folder, whose catalog says where they are; or a folder of outputs, such
            as data/ or a run's artifacts.
        env: Configuration environment, in a project.

    Raises:
        InputError: If there is no such folder, or no such environment.
    """
    root = Path(path)
    if not root.is_dir():
        raise InputError(
            f"{root} is no folder: expected a project's, its data/ or a run's artifacts."
        )
    if not (root / "conf").is_dir():
        return OpenAudit(root, {})
    places = {name: _path_in(entry) for name, entry in catalog_entries(root, env).items()}
    return OpenAudit(root / "data", {name: root / one for name, one in places.items() if one})


def catalog_entries(root: Path, env: str | None) -> dict[str, Any]:
    """Return the catalog of this package's project in a folder, without Kedro's session.

    Raises:
        InputError: If there is no such environment.
    """
    refuse_unknown_environment(root / "conf", env)
    with warnings.catch_warnings():
        # Kedro's, of a call that omegaconf 2.4 deprecates.
        warnings.filterwarnings("ignore", "register_new_resolver", UserWarning)
        entries: dict[str, Any] = ParameterAwareConfigLoader(
            str(root / "conf"), env=env, **LOADER_ARGUMENTS
        )["catalog"]
    return entries


def explain_stored(
    load: Callable[[str], Any], queries: tuple[str, ...], strongest: int
) -> Explanations:
    """Return audited queries explained from what is stored.

    Args:
        load: Returns an entry of the audit's catalog.
        queries: Their ids.
        strongest: How many helpers, and harmers; where they are more than are listed, the scores
            are read.
    """
    view, queries = QueryView.of(load), tuple(dict.fromkeys(queries))
    listed = listed_strongest(
        view.query_strongest,
        lambda: load("score_files"),
        queries,
        view.query_table["example_id"].to_list(),
        strongest,
        higher_is_better=view.measurement.higher_is_better,
    )
    return replace(view, query_strongest=listed).explained(queries, strongest)


def _path_in(entry: Any) -> str | None:
    """Return the file or folder of a catalog's entry, whatever is put around it."""
    while isinstance(entry, dict) and isinstance(entry.get("dataset"), dict):
        entry = entry["dataset"]
    found = isinstance(entry, dict) and (entry.get("filepath") or entry.get("path"))
    return str(found) if found else None
