"""The audited version of a registered model: which it is, what trained it, what it is told.

The order of writing keeps a killed audit from leaving a version that claims a pass it has not got:
`audit.status` is `running` first, an earlier alias is taken away before anything else where the
new audit does not pass, key and status are written last, and the alias after them.

A registry has no transactions: two audits of a version from two machines would leave tags of both.
So each reads what it wrote, and writes it again until it finds all of it there at once.
"""

import logging
import random
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

from sourcetrace.audit.identity.audit_key import KEY, AuditKey
from sourcetrace.audit.identity.data_digest import same_data
from sourcetrace.errors import InputError
from sourcetrace.parameters import RegisteredModelParameters
from sourcetrace.tracking.lineage.record import CLOSING, MATCHES, OPENING, AuditRecord

logger = logging.getLogger(__name__)

_ATTEMPTS = 10
_PAUSE = 1.0
"""Seconds at most between two attempts; drawn, so that two audits get out of step."""

ALIAS = "audited"
"""Of the version that passed last."""

STATUS = "audit.status"
_LAST = (KEY, STATUS)
TRAINING_DIGEST = "training.data_digest"
"""Tag of a training run, or of a version, with `data_digest` of what it was trained on."""

# The second is what the registry's databases say of a missing alias.
_ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")

_LONGEST_DESCRIPTION = 5000
"""Characters of a description that MLflow's databases keep."""

# From an opening to the first closing, with no further opening between: a marker that lost its
# partner takes no text of a person with it.
_CARD = re.compile(
    f"{re.escape(OPENING)}(?:(?!{re.escape(OPENING)}).)*?{re.escape(CLOSING)}", re.DOTALL
)


@dataclass(frozen=True)
class AuditedVersion:
    """A version, and what is known of its training.

    Attributes:
        name, version: Which it is.
        model_id: Of its logged model, where it has one.
        training_run: Id of the run that registered it.
        training_digest: Of the data it was trained on, where its training said so.
    """

    name: str
    version: str
    model_id: str | None
    training_run: str | None
    training_digest: str | None

    @classmethod
    def find(
        cls, client: MlflowClient, reference: RegisteredModelParameters | None, *, run_id: str
    ) -> Self | None:
        """Return the version a parameter names, or else the newest that the run itself registered.

        Raises:
            InputError: If the named version does not exist.
        """
        found = _named(client, reference) if reference else _registered_by(client, run_id)
        if found is None:
            return None
        source = found.source or ""
        return cls(
            name=found.name,
            version=str(found.version),
            model_id=source.removeprefix("models:/") if source.startswith("models:/m-") else None,
            training_run=found.run_id or None,
            training_digest=found.tags.get(TRAINING_DIGEST)
            or _digest_of_run(client, found.run_id or ""),
        )

    def warn_of_mismatch(self, digest: str) -> None:
        """Say loudly where the version was trained on other data than an audit's, by its digest."""
        if same_data(self.training_digest, digest) is False:
            logger.warning(
                "LINEAGE: %s version %s was trained on data with digest %s, this audit read %s. "
                "The training data was exchanged since: audit the data that trained the version, "
                "or set tracking.registered_model to the version that was trained on this data.",
                self.name,
                self.version,
                self.training_digest,
                digest,
            )

    def mark_running(self, client: MlflowClient, *, status: str) -> None:
        """Say that the version is being written to; where it does not pass, take its alias away."""
        client.set_model_version_tag(self.name, self.version, STATUS, "running")
        if status != "pass" and ALIAS in self._now(client).aliases:
            client.delete_registered_model_alias(self.name, ALIAS)

    def write(self, client: MlflowClient, record: AuditRecord, *, status: str) -> bool:
        """Write tags, card, key, status and alias, in this order; the version is marked as running.

        Returns:
            Whether the description had room for the card.

        Raises:
            InputError: If another audit does not stop writing to the version.
        """
        matches = record.data_matches(self.training_digest)
        experiment = client.get_run(record.run_id).info.experiment_id
        card = record.card(status=status, data_matches=matches, experiment_id=experiment)
        key = AuditKey.complete(record.key, earlier=self._now(client).tags.get(KEY))
        tags = {
            "audit.trust": f"{record.trust_status}: {record.trust_text}",
            "audit.suspect_fraction": f"{record.suspect_fraction:.4f}",
            "audit.report_sha256": record.report_sha256 or "none",
            "audit.at": record.at,
            "audit.run_id": record.run_id,
            "lineage.data_matches": MATCHES[matches],
            KEY: key,
            STATUS: status,
        }
        for _ in range(_ATTEMPTS):
            fits = self._write_once(client, tags=tags, card=card)
            if self._has(client, tags=tags, card=card if fits else ""):
                return fits
            time.sleep(random.uniform(0, _PAUSE))  # noqa: S311, no secret
            self.mark_running(client, status=status)
        raise InputError(
            f"Another audit keeps writing to {self.name} version {self.version}. Send "
            "this one when it has ended."
        )

    def _now(self, client: MlflowClient) -> ModelVersion:
        return client.get_model_version(self.name, self.version)

    def _write_once(self, client: MlflowClient, *, tags: Mapping[str, str], card: str) -> bool:
        for key, value in tags.items():
            if key not in _LAST:
                client.set_model_version_tag(self.name, self.version, key, value)
        description = _replace_card(self._now(client).description, card)
        if description is not None:
            client.update_model_version(self.name, self.version, description=description)
        for key in _LAST:
            client.set_model_version_tag(self.name, self.version, key, tags[key])
        if tags[STATUS] == "pass":
            client.set_registered_model_alias(self.name, ALIAS, self.version)
        return description is not None

    def _has(self, client: MlflowClient, *, tags: Mapping[str, str], card: str) -> bool:
        """Return whether the version has all of these at once."""
        found = self._now(client)
        last_line = card.split("\n")[-2] if card else ""
        return (
            tags.items() <= found.tags.items()
            # A card that was cut still has it; it names the run.
            and last_line in (found.description or "")
            # The alias of a pass may have gone on to another version already.
            and (tags[STATUS] == "pass" or ALIAS not in found.aliases)
        )


def _named(client: MlflowClient, reference: RegisteredModelParameters) -> ModelVersion:
    where = f"version {reference.version}" if reference.version else f"alias {reference.alias!r}"
    try:
        if reference.version:
            return client.get_model_version(reference.name, reference.version)
        return client.get_model_version_by_alias(reference.name, reference.alias or "")
    except MlflowException as error:
        if error.error_code not in _ABSENT:
            raise
        raise InputError(
            f"tracking.registered_model: there is no {where} of a registered model "
            f"{reference.name!r} in MLflow. Correct name, version or alias, or set it to null."
        ) from error


def _registered_by(client: MlflowClient, run_id: str) -> ModelVersion | None:
    if not run_id:
        return None
    found = client.search_model_versions(f"run_id = '{run_id}'")
    newest = max(found, key=lambda one: int(one.version), default=None)
    # The search may leave tags and aliases out.
    return newest and client.get_model_version(newest.name, newest.version)


def _digest_of_run(client: MlflowClient, run_id: str) -> str | None:
    """Return the digest a training run was tagged with, or that of its input `training`."""
    if not run_id:
        return None
    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        # Deleted, or of another server: nothing is known of it.
        return None
    if TRAINING_DIGEST in run.data.tags:
        tagged: str = run.data.tags[TRAINING_DIGEST]
        return tagged
    for one in run.inputs.dataset_inputs if run.inputs else []:
        contexts = {tag.value for tag in one.tags if tag.key == MLFLOW_DATASET_CONTEXT}
        if "training" in contexts or one.dataset.name == "training":
            digest: str = one.dataset.digest
            return digest
    return None


def _replace_card(description: str | None, card: str) -> str | None:
    """Return the description with this card in place of an earlier one, or behind the text.

    Where both do not fit into a description, the card is cut to its heading and its last line;
    None if not even these fit: the text stays as it is.
    """
    text = description or ""
    for version in (card, _short(card)):
        replaced = _put(text, version)
        if len(replaced) <= _LONGEST_DESCRIPTION:
            return replaced
    return None


def _put(text: str, card: str) -> str:
    if not _CARD.search(text):
        return f"{text}\n\n{card}" if text else card
    given = iter([card])
    # A card that somebody copied would go on claiming what it says: only one stays.
    return _CARD.sub(lambda _: next(given, ""), text)


def _short(card: str) -> str:
    _, heading, *_, last, closing = card.split("\n")
    return "\n".join([OPENING, heading, "", last, closing])
