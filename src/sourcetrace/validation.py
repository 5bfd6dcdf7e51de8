"""Values held against pydantic's models: what a user wrote, and what a file has kept."""

from typing import Any, Self, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from sourcetrace.errors import InputError
from sourcetrace.formats import format_known

_Model = TypeVar("_Model", bound=BaseModel)


def validated(
    model: type[_Model], content: Any, *, name: str = "", before: str = "", after: str = ""
) -> _Model:
    """Return the values as their model.

    Args:
        model: What is expected.
        content: What came.
        name: Of the group of parameters, in front of each key that is named.
        before: What the message says first: what is expected.
        after: What it says last: where to look.

    Raises:
        InputError: If they do not fit; it names each key and says what is wrong with it.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, (*filter(None, [name]), *one['loc']))) or 'content'}: "
            + _wrong(one, model)
            for one in error.errors()
        )
        # Not `from error`: pydantic's own text repeats the values, and one may be a secret.
        raise InputError(f"{before}{problems}.{after}") from None


def _wrong(error: ErrorDetails, model: type[BaseModel]) -> str:
    """Return what is wrong with a key, and of one that the model has not, the nearest it has."""
    if error["type"] != "extra_forbidden" or len(error["loc"]) > 1:
        return error["msg"].removeprefix("Value error, ")
    known = (field.alias or name for name, field in model.model_fields.items())
    return f"there is no such name. {format_known(str(error['loc'][0]), known)}"


class JsonRecord:
    """Of dataclasses that JSON can hold."""

    def to_json(self) -> dict[str, Any]:
        """Return values that JSON has."""
        values: dict[str, Any] = TypeAdapter(type(self)).dump_python(self, mode="json")
        return values

    @classmethod
    def from_json(cls, content: Any) -> Self:
        """Rebuild what `to_json` returned.

        Raises:
            ValueError: If it is something else.
        """
        return TypeAdapter(cls).validate_python(content)
