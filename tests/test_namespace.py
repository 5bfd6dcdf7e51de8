"""An audit's entries by their own names, whatever namespace it runs under."""

import pytest
from kedro.io import DataCatalog, MemoryDataset
from kedro.pipeline import Pipeline, node

from sourcetrace.errors import InputError
from sourcetrace.namespace import AuditCatalog, AuditNames
from sourcetrace.pipelines.audit import create_audit, create_verification


def host():
    """A pipeline of another project, with a namespace of its own."""
    return Pipeline([node(lambda: 0, None, "trust", name="own")], namespace="host")


@pytest.mark.parametrize("make", [create_audit, create_verification])
def test_the_namespace_is_that_of_our_nodes_alone(make):
    assert AuditNames.of(make("churn_audit") + host()) == AuditNames("churn_audit")
    assert AuditNames.of(make() + host()) == AuditNames()
    assert AuditNames.of(host()) == AuditNames()


def test_several_audits_are_refused():
    with pytest.raises(InputError, match="a run records one audit"):
        AuditNames.of(create_audit("churn_audit") + create_verification())


@pytest.mark.parametrize(
    ("namespace", "entry", "parameter"),
    [("", "task", "params:task"), ("a.b", "a.b.task", "params:a.b.task")],
)
def test_names_have_the_prefix_where_kedro_puts_it(namespace, entry, parameter):
    names = AuditNames(namespace)
    assert names.full("task") == entry
    assert names.full("params:task") == parameter
    made = create_audit(namespace or None)
    assert {entry, parameter} <= made.inputs()
    assert "gate_report" in names.made_by(made)


def test_the_catalog_shows_the_audits_entries_and_no_others():
    catalog = DataCatalog({"churn_audit.trust": MemoryDataset(1), "trust": MemoryDataset(2)})
    audit = AuditCatalog(catalog, AuditNames("churn_audit"))
    assert audit.load("trust") == 1
    assert audit.exists("trust")
    assert "scores" not in audit
    assert AuditNames("churn_audit").own({"churn_audit.x": 1, "x": 2}) == {"x": 1}
