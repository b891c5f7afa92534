"""How this copy of the project came here, and the command that adds what an optional stage needs."""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

NAME = "qsched-edge"
CHECKOUT = Path(__file__).parent.parent


def install_command(extra: str) -> str:
    """`pip install ...` with `extra`: from the checkout, the wheel or the repository that this copy was installed from,
    where pip noted one (PEP 610); else by name, which needs an index that has the project."""
    if (CHECKOUT / "pyproject.toml").is_file():
        return f'pip install "{CHECKOUT}[{extra}]"'
    noted = direct_url()
    url = str(noted.get("url", ""))
    if "vcs_info" in noted:
        return f'pip install "{NAME}[{extra}] @ {noted["vcs_info"]["vcs"]}+{url}"'
    path = Path(unquote(urlparse(url).path))
    if url.startswith("file:") and path.exists():
        return f'pip install "{path}[{extra}]"'
    if url.startswith("file:"):
        return f'pip install "{path.name}[{extra}]", where {path.name} is what this was installed from'
    return f'pip install "{NAME}[{extra}]"'


def direct_url() -> dict[str, Any]:
    try:
        text = distribution(NAME).read_text("direct_url.json")
    except PackageNotFoundError:
        return {}
    return dict(json.loads(text)) if text else {}
