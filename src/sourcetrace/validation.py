"""Values held against pydantic's models: what a user wrote, and what a file has kept."""

from typing import Any, Self, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from sourcetrace.errors import InputError

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
            f"{'.'.join(map(str, (*filter(None, [name]), *one['loc']))) or 'content'}: {one['msg']}"
            for one in error.errors()
        )
        # Not `from error`: pydantic's own text repeats the values, and one may be a secret.
        raise InputError(f"{before}{problems}.{after}") from None


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
