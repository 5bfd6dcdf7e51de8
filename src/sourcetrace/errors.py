"""The one error a user is meant to read."""


class InputError(ValueError):
    """An input is wrong; the message says what was expected, what came and what to change."""
