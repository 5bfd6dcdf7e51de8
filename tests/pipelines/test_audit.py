"""The audit as other projects take it in."""

import pytest

from sourcetrace.errors import InputError
from sourcetrace.namespace import AuditNames
from sourcetrace.pipelines.audit import (
    STAGES,
    create_audit,
    create_explain,
    create_stages,
    create_verification,
)
from sourcetrace.starter import starter_file


def test_everything_is_under_the_namespace_but_what_stays_outside():
    audit = create_audit("churn_audit", inputs={"checkpoints": "churn_checkpoints"})
    names = {name.removeprefix("params:") for name in audit.datasets()}
    assert {name for name in names if not name.startswith("churn_audit.")} == {"churn_checkpoints"}
    assert audit.nodes[-1].name == "churn_audit.enforce_gate"


def test_all_sketches_are_read_when_gradients_are_not_in_memory_any_more():
    nodes = [node.name for node in create_audit().nodes]
    assert nodes.index("pair_near_duplicates") > nodes.index("score_examples")


def test_without_a_namespace_an_input_can_be_exchanged():
    inputs = create_audit(inputs={"checkpoints": "churn_checkpoints"}).inputs()
    assert "churn_checkpoints" in inputs
    assert "checkpoints" not in inputs


@pytest.mark.parametrize("make", [create_audit, create_explain, create_verification])
def test_the_starter_has_every_entry_and_parameter(make):
    import yaml

    catalog = yaml.safe_load(starter_file("catalog", namespace="churn_audit", task="a.Task"))
    text = starter_file("parameters", namespace="churn_audit", task="a.Task")
    parameters = yaml.safe_load(text)["churn_audit"]
    pipeline = make("churn_audit")
    wanted = {name for name in pipeline.inputs() if not name.startswith("params:")}
    wanted -= {"churn_audit.asked"}  # a command's
    assert wanted <= set(catalog)
    groups = {name.split(".")[1] for name in pipeline.inputs() if name.startswith("params:")}
    assert groups <= set(parameters)
    assert parameters["task"]["class"] == "a.Task"


def test_each_stage_is_a_namespace_to_look_at_with_every_node_and_entry_of_the_audit():
    stages, audit = create_stages(), create_audit()
    assert {node.namespace for node in stages.nodes} == {*STAGES, "gate"}
    assert {node.name.partition(".")[2] for node in stages.nodes} == {n.name for n in audit.nodes}
    assert stages.datasets() == audit.datasets()
    # No stage waits for one behind it.
    order = [*STAGES, "gate"]
    for node, before in stages.node_dependencies.items():
        assert all(order.index(one.namespace) <= order.index(node.namespace) for one in before)
    with pytest.raises(InputError, match="6 namespaces"):
        AuditNames.of(stages)
