"""The report as one self-contained HTML page."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

import numpy as np
from qsched_runtime import png_bytes

from qsched_edge.calibrate.record import numbers
from qsched_edge.evaluate.text import span

STRENGTH = 3  # differences of quantized pictures are faint


def difference(picture: np.ndarray, base: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3]: the absolute difference of two pictures, STRENGTH times as strong, black where they agree."""
    apart = np.abs(picture.astype(int) - base.astype(int)) * STRENGTH
    return np.clip(apart, 0, 255).astype(np.uint8)


def data_uri(picture: np.ndarray) -> str:
    """uint8 [H, W, 3] -> a PNG in a data: address."""
    return "data:image/png;base64," + base64.b64encode(png_bytes(picture)).decode()


def page(report: Mapping[str, Any], prompts: Sequence[str], pictures: Mapping[str, np.ndarray]) -> str:
    """HTML text; `pictures` holds uint8 [shown, H, W, 3] for each cell, of the first prompts; differences are
    taken to the first cell's."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(files("qsched_edge.evaluate").joinpath("report.html.j2").read_text("utf-8"))
    coefficients = {name: [numbers([v]) for v in column] for name, column in report["coefficients"].items()}
    base = next(iter(pictures.values()))
    shown = [
        {
            "prompt": prompt,
            "pictures": [data_uri(p[i]) for p in pictures.values()],
            "differences": [data_uri(difference(p[i], base[i])) for p in pictures.values()],
        }
        for i, prompt in enumerate(prompts[: len(base)])
    ]
    return template.render(
        report=report, cells=list(report["cells"]), metrics=metric_rows(report), gains=gain_rows(report),
        coefficients=coefficients, shown=shown,
    )  # fmt: skip


def metric_rows(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for each measure: every cell's value and its difference to the base."""
    return [
        {
            "title": titled(m),
            "values": [m["form"].format(cell[name]) if name in cell else "" for cell in report["cells"].values()],
            "differences": [
                span(report["differences"][cell][name], m["signed"])
                if name in report["differences"].get(cell, {})
                else ""
                for cell in report["cells"]
            ],
        }
        for name, m in report["judges"]["measures"].items()
    ]


def gain_rows(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for each measure: what calibration gains on each network, and on one beyond the other."""
    return [
        {
            "title": titled(m),
            "values": [span(g[name], m["signed"]) if name in g else "" for g in report["calibration_gains"].values()],
        }
        for name, m in report["judges"]["measures"].items()
    ]


def titled(measure: Mapping[str, Any]) -> str:
    less = "" if measure["more_is_better"] else " (less is better)"
    return f"{measure['label']}{less}"
