"""Finds the data folders `export/` and `calib_prompts/`: the checkout's own if there is one, else the wheel's copy."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).parent


def shelf(name: str) -> Path:
    """The folder `name`; in a checkout (a pyproject.toml of this project stands beside the package) the live one."""
    project = PACKAGE.parent / "pyproject.toml"
    if project.is_file() and 'name = "qsched-edge"' in project.read_text("utf-8"):
        return PACKAGE.parent / name
    return PACKAGE / "_shelf_data" / name
