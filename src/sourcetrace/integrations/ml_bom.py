"""The bill of materials of an audited model: CycloneDX 1.6, JSON.

The model is the subject; its checkpoints, data and the software that decided the numbers are
components. It has no timestamp, which the format leaves optional, and its serial number is made of
its content: the same audit writes the same bytes.
"""

import json
import uuid
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.tool import ToolRepository
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from sourcetrace.reporting.documents.facts import SOURCE_PAPER, AuditFacts

_SERIALS = uuid.uuid5(uuid.NAMESPACE_URL, SOURCE_PAPER)
"""Namespace of our serial numbers; never to be changed."""


def make_ml_bom(facts: AuditFacts) -> dict[str, Any]:
    """Return the document as JSON has it."""
    result = facts.result
    model, tool = _model(facts), _component("application", "tool:sourcetrace", "sourcetrace")
    tool.version = result.versions["sourcetrace"]
    checkpoints = [
        _component(
            "file",
            f"checkpoint:{one.id}",
            one.id,
            hashes=[HashType(alg=HashAlgorithm.SHA_256, content=one.sha256)],
            properties={"step": str(one.step)},
        )
        for one in result.checkpoints
    ]
    # Our digest of content is no hash that the format knows.
    data = {
        name: _component(
            "data",
            f"data:{name}",
            "audited training data" if name == "training" else f"audited {name}",
            properties={"data_digest": one.digest, "rows": str(one.rows)},
        )
        for name, one in result.data.items()
    }
    software = [
        _component(
            "platform" if name == "python" else "library",
            f"software:{name}",
            name,
            version=version,
            purl=PackageURL("generic" if name == "python" else "pypi", None, name, version),
        )
        for name, version in result.versions.items()
        if name != "sourcetrace"
    ]
    bom = Bom(
        metadata=BomMetaData(component=model, tools=ToolRepository(components=[tool])),
        components=[*checkpoints, *data.values(), *software],
    )
    # The model rests on its training. Queries explain nothing of how it came about: it refers to
    # them as data alone.
    training = [data["training"]] if "training" in data else []
    bom.register_dependency(model, [*checkpoints, *training])
    for checkpoint in checkpoints:
        bom.register_dependency(checkpoint, training)
    return _completed(json.loads(JsonV1Dot6(bom).output_as_string()), facts)


def _model(facts: AuditFacts) -> Component:
    result, audited, revision = facts.result, facts.model, facts.revision
    properties = {
        "task": result.task,
        "attribution_method": result.method,
        "gate_outcome": result.gate,
        "trust_status": result.trust.status,
        "scores_sha256": result.scores_digest,
        "model_alias": audited.alias if audited else None,
        "git_commit": revision.commit if revision else None,
        "git_dirty": str(revision.dirty).lower() if revision else None,
    }
    return _component(
        "machine-learning-model",
        "model",
        facts.model_name,
        version=audited.version if audited else None,
        properties=properties,
    )


def _component(
    kind: str,
    reference: str,
    name: str,
    *,
    properties: Mapping[str, str | None] = MappingProxyType({}),
    **more: Any,
) -> Component:
    return Component(
        type=ComponentType(kind),
        bom_ref=reference,
        name=name,
        properties=[
            Property(name=f"sourcetrace:{key}", value=value)
            for key, value in properties.items()
            if value is not None
        ],
        **more,
    )


def _completed(document: dict[str, Any], facts: AuditFacts) -> dict[str, Any]:
    """Return a document with what the library has no classes for, or does not let through."""
    del document["metadata"]["timestamp"]
    document["metadata"]["component"]["modelCard"] = {
        "modelParameters": {"datasets": [{"ref": f"data:{name}"} for name in facts.result.data]},
        "quantitativeAnalysis": {"performanceMetrics": _metrics(facts)},
        "considerations": {"technicalLimitations": facts.limits()},
    }
    for one in document["components"]:
        if one["type"] == "data":
            name = one["bom-ref"].removeprefix("data:")
            one["data"] = [{"type": "dataset", "name": name}]
    libraries = [one["bom-ref"] for one in document["components"] if "purl" in one]
    # The library knows of no dependencies of a tool.
    document["dependencies"].append({"ref": "tool:sourcetrace", "dependsOn": libraries})
    # The model's own code and the packages of its training are not known to an audit.
    document["compositions"] = [
        {"aggregate": "incomplete", "dependencies": ["model", "tool:sourcetrace"]}
    ]
    del document["serialNumber"]
    canonical = json.dumps(document, sort_keys=True, ensure_ascii=False)
    return {**document, "serialNumber": f"urn:uuid:{uuid.uuid5(_SERIALS, canonical)}"}


def _metrics(facts: AuditFacts) -> list[dict[str, Any]]:
    """Return the gate's metrics that were measured, and the share of suspects."""
    result = facts.result
    share = facts.suspects / max(1, result.counts.training_examples)
    measured: dict[str, Any] = {"suspect_fraction": share} | dict(result.metrics)
    metrics: list[dict[str, Any]] = [
        {"type": name, "value": repr(value)}
        for name, value in measured.items()
        # The interval's lower end is the figure's own.
        if value is not None and name != "trust_lds_low"
    ]
    low, high = result.trust.lds_low, facts.trust_high
    for one in metrics:
        if one["type"] == "trust_lds" and low is not None and high is not None:
            one["confidenceInterval"] = {"lowerBound": repr(low), "upperBound": repr(high)}
    return metrics
