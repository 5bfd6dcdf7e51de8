"""What every group has in common."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic_core import PydanticCustomError

from sourcetrace.formats import format_known


class Parameters(BaseModel):
    """A frozen record that names a key it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _has_known_keys(cls, content: Any) -> Any:
        known = [field.alias or name for name, field in cls.model_fields.items()]
        given = content if isinstance(content, Mapping) else ()
        if unknown := [str(name) for name in given if name not in known]:
            said = f"there is no {unknown[0]}. {format_known(unknown[0], known)}"
            raise PydanticCustomError("unknown_key", "{said}", {"said": said})
        return content
