"""Text in a CSV file that a spreadsheet program would run as a formula, and back again.

A quote stands before it, and before a text that such a quote would be taken away from. Programs
differ in what they skip before the sign: spaces, control characters, and the sign's full width
counts as the sign. A number with its sign is none.
"""

import polars as pl

_FORMULA = r"('*(?:[\t\r]|[\s\p{C}\p{Z}]*[=+\-@＝＋－＠]))"
_NUMBER = r"^[+\-]\d+(?:[.,]\d+)?(?:[eE][+\-]?\d+)?$"


def quoted(text: pl.Expr) -> pl.Expr:
    """Return text that a spreadsheet shows as it is."""
    return pl.when(text.str.contains(_NUMBER)).then(text).otherwise(_replaced(text, "", "'"))


def unquoted(text: pl.Expr) -> pl.Expr:
    """Return what was quoted."""
    return _replaced(text, "'", "")


def _replaced(text: pl.Expr, before: str, after: str) -> pl.Expr:
    return text.str.replace(f"^{before}{_FORMULA}", f"{after}${{1}}")
