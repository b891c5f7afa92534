"""Self-contained HTML: style and script stand in the page, and a policy keeps out whatever else one might slip in."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files
from typing import Any

import numpy as np
from qsched_runtime import png_bytes

SMALL = 256  # pictures of fewer pixels a side are enlarged without smoothing


def render(template: str, **values: Any) -> str:
    """The page of a template such as "evaluate/report.html.j2"; strings are escaped."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, loader=FunctionLoader(part)
    )
    style, script = part("evaluate/page.css"), part("evaluate/page.js")
    return environment.get_template(template).render(style=style, script=script, policy=policy(style, script), **values)


def part(name: str) -> str:
    """The text of a file in this package."""
    return files("qsched_edge").joinpath(name).read_text("utf-8")


def policy(style: str, script: str) -> str:
    """A Content-Security-Policy: nothing is fetched, and only this style and this script are obeyed."""
    allowed = {"img-src": "data:", "style-src": hashed(style), "script-src": hashed(script)}
    rules = [f"{name} {what}" for name, what in allowed.items()]
    return "; ".join(["default-src 'none'", *rules, "base-uri 'none'", "form-action 'none'"])


def hashed(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def picture(pixels: np.ndarray, title: str, prompt: str) -> dict[str, Any]:
    """uint8 [H, W, 3] as the templates show it."""
    height, width = pixels.shape[:2]
    return {
        "uri": png_uri(png_bytes(pixels)), "width": width, "height": height, "small": max(height, width) < SMALL,
        "title": title, "alt": f"{prompt}: {title}",
    }  # fmt: skip


def png_uri(data: bytes) -> str:
    """A PNG file in a data: address."""
    return "data:image/png;base64," + base64.b64encode(data).decode()
