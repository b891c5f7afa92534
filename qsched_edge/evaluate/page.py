"""The report as one self-contained HTML page."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

import numpy as np
from qsched_runtime import png_bytes

from qsched_edge.calibrate.record import numbers
from qsched_edge.jaq.terms import TERMS, picture_terms

MEASURES = {
    "top1": ("Concept accuracy, top 1", "{:.1%}", "{:+.1%}"),
    "top5": ("Concept accuracy, top 5", "{:.1%}", "{:+.1%}"),
    "frechet": ("Fréchet distance (less is better)", "{:.2f}", "{:+.2f}"),
}


def labels() -> dict[str, tuple[str, str, str]]:
    """Measure -> title, form of a value, form of a difference: the second judge's, then the terms."""
    return MEASURES | {n: (TERMS[n].label, TERMS[n].form, TERMS[n].signed) for n in picture_terms()}


STRENGTH = 3  # differences of quantized pictures are faint


def difference(picture: np.ndarray, base: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3]: the absolute difference of two pictures, STRENGTH times as strong, black where they agree."""
    apart = np.abs(picture.astype(int) - base.astype(int)) * STRENGTH
    return np.clip(apart, 0, 255).astype(np.uint8)


def data_uri(picture: np.ndarray) -> str:
    """uint8 [H, W, 3] -> a PNG in a data: address."""
    return "data:image/png;base64," + base64.b64encode(png_bytes(picture)).decode()


def interval_text(difference: Mapping[str, float] | None, form: str) -> str:
    if difference is None:
        return "not finite"
    low, high = form.format(difference["low"]), form.format(difference["high"])
    return f"{form.format(difference['estimate'])} [{low}, {high}]"


def page(report: Mapping[str, Any], prompts: Sequence[str], pictures: Mapping[str, np.ndarray]) -> str:
    """HTML text; `pictures` holds uint8 [shown, H, W, 3] for each cell, of the first prompts; differences are
    taken to the first cell's."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(files("qsched_edge.evaluate").joinpath("report.html.j2").read_text("utf-8"))
    metrics = [
        {
            "title": title,
            "values": [form.format(cell[name]) for cell in report["cells"].values()],
            "differences": [
                interval_text(report["differences"][cell][name], signed) if cell in report["differences"] else ""
                for cell in report["cells"]
            ],
        }
        for name, (title, form, signed) in labels().items()
    ]
    gains = [
        {
            "title": title,
            "values": [interval_text(gain[name], signed) for gain in report["calibration_gains"].values()],
        }
        for name, (title, _, signed) in labels().items()
    ]
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
        report=report, cells=list(report["cells"]), metrics=metrics, gains=gains, coefficients=coefficients, shown=shown
    )
