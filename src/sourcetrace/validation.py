"""Values that a user wrote, held against a pydantic model: one text for whatever is wrong."""

from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

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
