"""The bill of materials of an audited model: CycloneDX 1.6, JSON.

The model is the subject; its checkpoints, data and the software that decided the numbers are
components. It has no timestamp, which the format leaves optional, and its serial number is made of
its content: the same audit writes the same bytes.
"""

import json
import uuid
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

from sourcetrace.reporting.documents.facts import SOURCE_PAPER, AuditFacts

SPEC_VERSION = "1.6"

_SERIALS = uuid.uuid5(uuid.NAMESPACE_URL, SOURCE_PAPER)
"""Namespace of our serial numbers; never to be changed."""

_MODEL, _TOOL = "model", "tool:sourcetrace"


def make_ml_bom(facts: AuditFacts) -> dict[str, Any]:
    """Return the document as JSON has it."""
    checkpoints = _checkpoints(facts)
    data = _data(facts)
    software = _software(facts)
    body: dict[str, Any] = {
        "bomFormat": "CycloneDX",
        "specVersion": SPEC_VERSION,
        "version": 1,
        "metadata": {
            "tools": {
                "components": [
                    {
                        "type": "application",
                        "bom-ref": _TOOL,
                        "name": "sourcetrace",
                        "version": facts.result.versions["sourcetrace"],
                    }
                ]
            },
            "component": _model(facts, data),
        },
        "components": [*checkpoints, *data, *software],
        "dependencies": _dependencies(checkpoints, data, software),
        # The model's own code and the packages of its training are not known to an audit.
        "compositions": [{"aggregate": "incomplete", "dependencies": [_MODEL, _TOOL]}],
    }
    canonical = json.dumps(body, sort_keys=True, ensure_ascii=False)
    return {**body, "serialNumber": f"urn:uuid:{uuid.uuid5(_SERIALS, canonical)}"}


def _model(facts: AuditFacts, data: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    result = facts.result
    component: dict[str, Any] = {
        "type": "machine-learning-model",
        "bom-ref": _MODEL,
        "name": facts.model_name,
    }
    if facts.model is not None and facts.model.version is not None:
        component["version"] = facts.model.version
    properties = {
        "task": result.task,
        "attribution_method": result.method,
        "gate_outcome": result.gate,
        "trust_status": result.trust.status,
        "scores_sha256": result.scores_digest,
    }
    if facts.model is not None and facts.model.alias is not None:
        properties["model_alias"] = facts.model.alias
    if facts.revision is not None:
        properties["git_commit"] = facts.revision.commit
        properties["git_dirty"] = str(facts.revision.dirty).lower()
    return {
        **component,
        "modelCard": {
            "modelParameters": {"datasets": [{"ref": one["bom-ref"]} for one in data]},
            "quantitativeAnalysis": {"performanceMetrics": _metrics(facts)},
            "considerations": {"technicalLimitations": facts.limits()},
        },
        "properties": _properties(properties),
    }


def _metrics(facts: AuditFacts) -> list[dict[str, Any]]:
    """Return the gate's metrics that were measured, and the share of suspects."""
    result = facts.result
    low, high = result.trust.lds_low, facts.trust_high
    metrics: list[dict[str, Any]] = [
        {
            "type": "suspect_fraction",
            "value": repr(facts.suspects / max(1, result.counts.training_examples)),
        }
    ]
    for name, value in result.metrics.items():
        # The interval's lower end is the figure's own.
        if value is None or name == "trust_lds_low":
            continue
        metric: dict[str, Any] = {"type": name, "value": repr(value)}
        if name == "trust_lds" and low is not None and high is not None:
            metric["confidenceInterval"] = {"lowerBound": repr(low), "upperBound": repr(high)}
        metrics.append(metric)
    return metrics


def _checkpoints(facts: AuditFacts) -> list[dict[str, Any]]:
    return [
        {
            "type": "file",
            "bom-ref": f"checkpoint:{checkpoint.id}",
            "name": checkpoint.id,
            "hashes": [{"alg": "SHA-256", "content": checkpoint.sha256}],
            "properties": _properties({"step": str(checkpoint.step)}),
        }
        for checkpoint in facts.result.checkpoints
    ]


def _data(facts: AuditFacts) -> list[dict[str, Any]]:
    """Return the data sets; our digest of content is no hash that the format knows."""
    return [
        {
            "type": "data",
            "bom-ref": f"data:{name}",
            "name": "audited training data" if name == "training" else f"audited {name}",
            "data": [{"type": "dataset", "name": name}],
            "properties": _properties({"data_digest": one.digest, "rows": str(one.rows)}),
        }
        for name, one in facts.result.data.items()
    ]


def _software(facts: AuditFacts) -> list[dict[str, Any]]:
    return [
        {
            "type": "platform" if name == "python" else "library",
            "bom-ref": f"software:{name}",
            "name": name,
            "version": version,
            "purl": _package_url(name, version),
        }
        for name, version in sorted(facts.result.versions.items())
        if name != "sourcetrace"
    ]


def _package_url(name: str, version: str) -> str:
    kind = "generic" if name == "python" else "pypi"
    return f"pkg:{kind}/{name.lower().replace('_', '-')}@{quote(version, safe='')}"


def _dependencies(
    checkpoints: Iterable[Mapping[str, Any]],
    data: Iterable[Mapping[str, Any]],
    software: Iterable[Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """Return what rests on what: the model on its training, the audit on its software.

    Queries explain nothing of how the model came about: it refers to them as data alone.
    """
    saved = [one["bom-ref"] for one in checkpoints]
    read = [one["bom-ref"] for one in data]
    libraries = [one["bom-ref"] for one in software]
    training = [reference for reference in read if reference == "data:training"]
    return [
        {"ref": _MODEL, "dependsOn": [*saved, *training]},
        *({"ref": reference, "dependsOn": training} for reference in saved),
        *({"ref": reference} for reference in read),
        {"ref": _TOOL, "dependsOn": libraries},
        *({"ref": reference} for reference in libraries),
    ]


def _properties(values: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"name": f"sourcetrace:{name}", "value": value} for name, value in values.items()]
