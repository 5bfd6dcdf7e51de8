"""Write the JSON Schemas of `gate.json` and `audit.json`.

`python -m sourcetrace.audit.gate.publish_schemas` does so after a model has changed.
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


def schema_text(model: type[BaseModel]) -> str:
    """Return a model's JSON Schema as the file has it."""
    schema: dict[str, Any] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **model.model_json_schema(mode="serialization"),
    }
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def schema_folder() -> Path:
    """Return where the files are."""
    return Path(inspect.getfile(schemas)).parent


def main() -> None:
    """Write both files."""
    for name, model in PUBLISHED.items():
        (schema_folder() / name).write_text(schema_text(model), encoding="utf-8")


if __name__ == "__main__":
    main()
