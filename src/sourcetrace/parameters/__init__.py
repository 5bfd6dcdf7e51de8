"""One frozen pydantic model a group of parameters; Kedro checks them before any node runs."""

from collections.abc import Mapping

from sourcetrace.parameters.attribution import (
    AttributionParameters,
    GradientParameters,
    LayerParameters,
    SegmentParameters,
)
from sourcetrace.parameters.base import Parameters
from sourcetrace.parameters.checkpoints import CheckpointParameters
from sourcetrace.parameters.demo import DemoParameters
from sourcetrace.parameters.gate import GateCheck, GateParameters
from sourcetrace.parameters.launch import LaunchParameters
from sourcetrace.parameters.retraining import CleaningParameters, VerificationParameters
from sourcetrace.parameters.review import (
    ComparisonParameters,
    DecisionParameters,
    ReportParameters,
    StatusParameters,
)
from sourcetrace.parameters.task import CandidateParameters, TaskParameters
from sourcetrace.parameters.tracking import (
    AlertParameters,
    OpenLineageParameters,
    RegisteredModelParameters,
    TrackingParameters,
    WatchedModelParameters,
)

__all__ = [
    "GROUPS",
    "AlertParameters",
    "AttributionParameters",
    "CandidateParameters",
    "CheckpointParameters",
    "CleaningParameters",
    "ComparisonParameters",
    "DecisionParameters",
    "DemoParameters",
    "GateCheck",
    "GateParameters",
    "GradientParameters",
    "LaunchParameters",
    "LayerParameters",
    "OpenLineageParameters",
    "RegisteredModelParameters",
    "ReportParameters",
    "SegmentParameters",
    "StatusParameters",
    "TaskParameters",
    "TrackingParameters",
    "VerificationParameters",
    "WatchedModelParameters",
]

GROUPS: Mapping[str, type[Parameters]] = {
    "task": TaskParameters,
    "checkpoints": CheckpointParameters,
    "segments": SegmentParameters,
    "gradients": GradientParameters,
    "attribution": AttributionParameters,
    "launch": LaunchParameters,
    "report": ReportParameters,
    "comparison": ComparisonParameters,
    "gate": GateParameters,
    "verification": VerificationParameters,
    "decisions": DecisionParameters,
    "cleaning": CleaningParameters,
    "tracking": TrackingParameters,
    "alerts": AlertParameters,
    "demo": DemoParameters,
    "status": StatusParameters,
}
"""Group of parameters -> its model."""
