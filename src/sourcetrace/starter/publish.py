"""Write the starter's files from this project's own configuration.

`python -m sourcetrace.starter.publish` does so in a checkout, after conf/base has changed.
"""

import re
from pathlib import Path

from sourcetrace.starter import PLACEHOLDER, TASK

STAGES = (
    "checkpoint_ingest",
    "gradient_extraction",
    "source_scoring",
    "launch",
    "cleaning_report",
    "comparison",
    "gate",
    "decisions",
    "cleaning",
    "verification",
    "status",
    "tracking",
)
"""Whose parameters another project needs; the demo's stay here."""

_CATALOG_HEADING = """\
# The audit's entries under the namespace {namespace}, written by `sourcetrace adopt`. Change paths
# and types as your project needs them; names stay, and so do the validators, which check tables.
"""
_PARAMETERS_HEADING = """\
# The audit's parameters under the namespace {namespace}, written by `sourcetrace adopt`.
"""
_DEMO = "\n# ── the demo"


def starter_texts(configuration: Path) -> dict[str, str]:
    """Return what each file of `FILES` should hold.

    Args:
        configuration: The folder conf/base.
    """
    catalog = (configuration / "catalog.yml").read_text(encoding="utf-8").split(_DEMO)[0]
    _, catalog = catalog.split("\n", 1)  # its heading
    catalog = re.sub(r"^(\w+):$", rf"{PLACEHOLDER}.\1:", catalog, flags=re.MULTILINE)
    catalog = re.sub(r"\bdata/(\d\d_\w+)/", rf"data/\1/{PLACEHOLDER}/", catalog)
    catalog = catalog.replace("${parameter:", f"${{parameter:{PLACEHOLDER}.")
    parts = [
        (configuration / f"parameters_{stage}.yml").read_text(encoding="utf-8").strip()
        for stage in STAGES
    ]
    lines = "\n\n".join(parts).splitlines()
    body = "\n".join(f"  {line}" if line else "" for line in lines)
    body = body.replace("data/01_raw/", f"data/01_raw/{PLACEHOLDER}/")
    body = re.sub(r"(?m)^( +class:) .*$", rf"\1 {TASK}", body)
    return {
        "catalog": f"{_CATALOG_HEADING}{catalog.rstrip()}\n",
        "parameters": f"{_PARAMETERS_HEADING}{PLACEHOLDER}:\n{body}\n",
    }


if __name__ == "__main__":
    for name, text in starter_texts(Path(__file__).parents[3] / "conf/base").items():
        (Path(__file__).parent / f"{name}.yml").write_text(text, encoding="utf-8")
