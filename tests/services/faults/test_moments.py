"""The moments at which faults strike are an audit's."""

from sourcetrace.pipelines.audit import create_audit
from tests.services.faults.__main__ import STAGES


def test_every_stage_is_paused_before_a_node_that_it_has():
    nodes = {node.name for node in create_audit().nodes}
    assert {moment.removeprefix("before ") for moment in STAGES.values()} <= nodes
