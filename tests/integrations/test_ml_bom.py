"""The ML-BOM against CycloneDX's own schema, and what a reader finds in it."""

import json
from uuid import UUID

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

from sourcetrace.integrations.ml_bom import make_ml_bom
from tests.reporting.documents.examples import UNVERIFIED, audit_facts

VARIANTS = {
    "verified": audit_facts(),
    "registered": audit_facts(model={"name": "churn", "version": 3}),
    "by alias": audit_facts(model={"name": "churn", "alias": "candidate"}),
    "unverified": audit_facts(trust=UNVERIFIED, trust_high=None, revision=None),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_it_fits_the_schema(name):
    document = json.dumps(make_ml_bom(VARIANTS[name]))
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(document) is None


def test_the_validator_would_notice():
    bom = make_ml_bom(audit_facts())
    bom["metadata"]["component"]["modelCard"]["surprise"] = 1
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(bom)) is not None


def test_every_reference_leads_to_a_component_and_every_component_has_its_line():
    bom = make_ml_bom(audit_facts())
    subject = bom["metadata"]["component"]
    tools = bom["metadata"]["tools"]["components"]
    known = [one["bom-ref"] for one in [subject, *tools, *bom["components"]]]
    assert len(set(known)) == len(known)
    lines = {line["ref"]: line.get("dependsOn", []) for line in bom["dependencies"]}
    assert set(lines) == set(known)
    assert {target for targets in lines.values() for target in targets} <= set(known)
    assert lines["model"] == ["checkpoint:step:10.pt", "checkpoint:step:2000.pt", "data:training"]
    read = subject["modelCard"]["modelParameters"]["datasets"]
    assert read == [{"ref": "data:training"}, {"ref": "data:queries"}]


def test_checkpoints_have_hashes_data_their_digest_and_software_its_address():
    components = {one["bom-ref"]: one for one in make_ml_bom(audit_facts())["components"]}
    checkpoint = components["checkpoint:step:10.pt"]
    assert checkpoint["hashes"] == [{"alg": "SHA-256", "content": f"{10:064x}"}]
    digest = {"name": "sourcetrace:data_digest", "value": "st1-" + "1" * 32}
    assert digest in components["data:training"]["properties"]
    torch = PackageURL.from_string(components["software:torch"]["purl"])
    assert (torch.type, torch.name, torch.version) == ("pypi", "torch", "2.13.0+cpu")
    assert PackageURL.from_string(components["software:python"]["purl"]).type == "generic"


def test_the_trust_figure_has_its_interval_and_is_left_out_where_there_is_none():
    def metrics(facts):
        card = make_ml_bom(facts)["metadata"]["component"]["modelCard"]
        return {one["type"]: one for one in card["quantitativeAnalysis"]["performanceMetrics"]}

    figure = metrics(audit_facts())["trust_lds"]
    assert figure["value"] == "0.5"
    assert figure["confidenceInterval"] == {"lowerBound": "0.4", "upperBound": "0.6"}
    assert metrics(audit_facts())["suspect_fraction"]["value"] == "0.08"
    nothing = audit_facts(trust=UNVERIFIED, metrics={"trust_lds": None, "attributed_share": 1.0})
    assert set(metrics(nothing)) == {"suspect_fraction", "attributed_share"}


def test_the_same_audit_has_the_same_bytes_and_another_one_another_serial_number():
    bom = make_ml_bom(audit_facts())
    assert json.dumps(bom) == json.dumps(make_ml_bom(audit_facts()))
    assert UUID(bom["serialNumber"]).version == 5
    assert "timestamp" not in bom["metadata"]
    for name in ("registered", "by alias", "unverified"):
        assert make_ml_bom(VARIANTS[name])["serialNumber"] != bom["serialNumber"]


def test_it_holds_no_id_of_an_example():
    assert "secret-customer-7" not in json.dumps(make_ml_bom(audit_facts()))
