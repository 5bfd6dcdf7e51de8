"""Write the JSON Schemas of `gate.json` and `audit.json`.

`python -m tests.audit.gate.publish_schemas` does so after a model has changed.
"""

import inspect
import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from sourcetrace import schemas
from sourcetrace.audit.gate.audit_result import AuditResult
from sourcetrace.audit.gate.report import GateReport

PUBLISHED: dict[str, type[BaseModel]] = {
    "gate.schema.json": GateReport,
    "audit.schema.json": AuditResult,
}
"""File beside the tables' schemas -> its model."""

FOLDER = Path(inspect.getfile(schemas)).parent
"""Where the files are."""


def schema_text(model: type[BaseModel]) -> str:
    """Return a model's JSON Schema as the file has it."""
    schema: dict[str, Any] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **model.model_json_schema(mode="serialization"),
    }
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    for file, published in PUBLISHED.items():
        (FOLDER / file).write_text(schema_text(published), encoding="utf-8")
