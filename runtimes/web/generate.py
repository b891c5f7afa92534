"""Writes src/data.js, which the web runtime shares with the Python runtime: the schema and the operators.

`python runtimes/web/generate.py` after either has changed; the tests hold the file against both.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

HERE = Path(__file__).parent
PYTHON = HERE.parent / "python"
DATA = HERE / "src/data.js"


def data_module() -> str:
    """The text of src/data.js."""
    sys.path.insert(0, str(PYTHON))
    from qsched_runtime.operators import OPERATORS

    schema = json.loads((PYTHON / "qsched_runtime/qsched.schema.json").read_text("utf-8"))
    operators = json.dumps({domain: sorted(names) for domain, names in OPERATORS.items()})
    return (
        "// Written by runtimes/web/generate.py from the Python runtime's schema and operators: do not edit.\n"
        f"export const SCHEMA = {json.dumps(schema)};\n"
        f"export const OPERATORS = {operators};\n"
    )


if __name__ == "__main__":
    DATA.write_text(data_module(), "utf-8")
