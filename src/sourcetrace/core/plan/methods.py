"""Names of the attribution methods; apart from the filters so that reading them needs no torch."""

from typing import Literal

Method = Literal[
    "source",
    "scaled_source",
    "fast_source",
    "astra_source",
    "influence",
    "astra_influence",
    "trak",
    "tracin",
    "gradient_similarity",
    "representation_similarity",
]
