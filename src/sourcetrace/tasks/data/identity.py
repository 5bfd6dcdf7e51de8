"""Names of examples, and what names and contents say of a side's rows."""

import hashlib
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from sourcetrace.formats import format_names, format_noun

_DIGITS = 16
"""Of a content's digest: among ten million, two are the same with probability 3 in a million."""


def content_digest(*parts: bytes) -> str:
    """Return the digest of an example's content, 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()[:_DIGITS]


def numbered(contents: Iterable[str]) -> list[str]:
    """Return contents as names; the second of the same content is `…-2`."""
    seen: Counter[str] = Counter()
    names = []
    for content in contents:
        seen[content] += 1
        names.append(content if seen[content] == 1 else f"{content}-{seen[content]}")
    return names


def duplicate_notes(
    called: str, ids: Sequence[str], contents: Sequence[str], labels: Sequence[object]
) -> list[str]:
    """Say which examples have the inputs of an earlier one, and which of them another label."""
    first: dict[str, int] = {}
    again: list[str] = []
    other: list[str] = []
    for place, content in enumerate(contents):
        before = first.setdefault(content, place)
        if before == place:
            continue
        again.append(ids[place])
        if labels[before] != labels[place]:
            other.append(ids[place])
    if not again:
        return []
    differing = f", {len(other)} of them with another label ({_named(other)})" if other else ""
    have = "has" if len(again) == 1 else "have"
    return [
        f"{called}: {format_noun(len(again), 'example')} {have} the inputs of an earlier one"
        f"{differing}: {_named(again)}"
    ]


def overlap_notes(
    called: str, ids: Sequence[str], contents: Sequence[str], trained: Iterable[str]
) -> list[str]:
    """Say which queries have the inputs of a training example."""
    known = set(trained)
    found = [name for name, content in zip(ids, contents, strict=True) if content in known]
    if not found:
        return []
    have = "has" if len(found) == 1 else "have"
    return [
        f"{called}: {format_noun(len(found), 'query', 'queries')} {have} the inputs of a training "
        f"example: {_named(found)}"
    ]


def lookalike_notes(called: str, ids: Iterable[str]) -> list[str]:
    """Say which ids look the same: they differ by the form of Unicode or by blanks alone."""
    groups = defaultdict(set)
    for name in ids:
        groups[" ".join(unicodedata.normalize("NFKC", name).split())].add(name)
    alike = [" and ".join(map(repr, sorted(group))) for group in groups.values() if len(group) > 1]
    if not alike:
        return []
    return [
        f"{called}: ids differ by blanks or by the form of Unicode alone, and may be one example: "
        f"{format_names(alike)}"
    ]


def _named(names: Iterable[str]) -> str:
    return format_names(map(repr, names))
