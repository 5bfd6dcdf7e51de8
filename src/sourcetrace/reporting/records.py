"""What stages hand on to the page and to the terminal, besides tables: typed, kept as JSON.

Each but the status names the digest of the scores that it is about: the page shows those of its own
scores.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True)


class Trust(_Record):
    """The one line on how far to trust the scores.

    Attributes:
        status: In two words.
        text: A sentence or two.
        command: What to run for more, where there is something to run.
    """

    status: Literal["Verified", "Not confirmed", "Not verified"]
    text: str
    command: str = ""


class AuditRun(_Record):
    """The run that computed scores: what their tables do not say.

    Attributes:
        scores_digest: Of the scores.
        at: When, UTC, ISO 8601.
        seconds: From reading the checkpoints to the review list; None where it was several runs.
        run_id: Of the MLflow run; empty where tracking was off.
        environment: The `--env` of its command; empty where it had none.
        commit: Of the project's git repository; empty outside one.
        dirty: Whether files differed from it.
    """

    scores_digest: str
    at: str
    seconds: float | None = None
    run_id: str = ""
    environment: str = ""
    commit: str = ""
    dirty: bool = False


class Suspect(_Record):
    """One of the first suspects, with the review list's columns that a terminal has room for."""

    rank: int
    example_id: str
    given_label: str | None
    predicted_label: str | None
    reason: str


class AuditSummary(_Record):
    """What an audit found, in a few lines.

    Attributes:
        scores_digest: SHA-256 of the scores; empty in a summary of an earlier version.
        scores_kept: Whether all scores are there, and not each query's strongest alone.
        task: Import path of the task's class.
        method: `attribution.method` of the scores, whatever the parameters say by now.
        trust: How far the scores can be trusted.
        training_examples, queries, runs, checkpoints, segments: How many there are.
        attributed_share: Share of the model's values with attribution at the final checkpoint.
        exploratory: Why the number of suspects is but an indication; empty where it is more.
        mean_query_loss: At the final checkpoint.
        without_effect: Training examples whose removal changes nothing: every score is 0.
        set_aside: Training examples and queries that could not be used, within task.set_aside.
        kept_curvature: That the curvature is that of earlier data, and how far these have moved
            since; empty in a full audit.
        unstable: Suspects whose harm has no stable sign.
        actions: Suggested action -> how many examples.
        suspects: The first ones.
    """

    scores_digest: str = ""
    scores_kept: bool = True
    task: str = ""
    method: str
    trust: Trust
    training_examples: int
    queries: int
    runs: int
    checkpoints: int
    segments: int
    attributed_share: float
    exploratory: str = ""
    mean_query_loss: float | None = None
    without_effect: int = 0
    set_aside: int = 0
    kept_curvature: str = ""
    unstable: int
    actions: dict[str, int]
    suspects: tuple[Suspect, ...]

    @property
    def suspect_count(self) -> int:
        """Examples with a suggested action."""
        return sum(self.actions.values()) - self.actions["keep"]

    @property
    def suspect_share(self) -> float:
        """The suspects' share of the training examples; of one, where there is none."""
        return max(1, self.suspect_count) / max(1, self.training_examples)

    @property
    def says_nothing(self) -> bool:
        """Whether every score is 0, as those of a model without gradients are."""
        return self.without_effect == self.training_examples


class Ranking(_Record):
    """How well an order of the training examples finds errors that were planted.

    Attributes:
        name: As shown.
        found: Planted errors among the examples inspected.
        average_precision: 1 where every planted error comes first.
        curve: Shares of the examples inspected and of the errors found, from none to all.
    """

    name: str
    found: int
    average_precision: float
    curve: tuple[tuple[float, float], ...]


class GroundTruth(_Record):
    """How well rankings find label errors that were planted on purpose.

    The audit never sees which labels these are; whoever planted them writes this afterwards.

    Attributes:
        scores_digest: Of the scores behind the review list.
        planted: Planted errors; as many examples count as inspected.
        examples: Training examples in all.
        rankings: The review list's own order first.
    """

    scores_digest: str
    planted: int
    examples: int
    rankings: tuple[Ranking, ...]


class StageStatus(_Record):
    """What is done of a stage.

    Attributes:
        stage: Its pipeline.
        state: What is there of it, in words.
        run: What a run of the audit would do.
        seconds: That this takes in one process; None where no earlier run says so.
    """

    stage: str
    state: str
    run: str
    seconds: float | None = None


class AuditStatus(_Record):
    """What is done of an audit.

    Attributes:
        stages: In their order.
        checked: Whether every byte was read.
        left: Units of work of other audits, of which a run keeps the last ones'.
        folder: Of the units.
    """

    stages: tuple[StageStatus, ...]
    checked: bool
    left: int
    folder: str
