"""A report in one sentence, and what its reader has to beware of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qsched_edge.evaluate.effects import PLAIN, Effect, is_calibrated, of_calibration, of_quantization, told

FEW = 8  # prompts whose interval says something
LEARNED = {"timesteps": "timesteps", "c_z": "amounts of noise", "c_x": "c_x", "c_eps": "c_eps", "bias": "biases"}


def sentence(report: Mapping[str, Any]) -> str:
    """What was calibrated, whether it ships, how much better by which judge, and what quantization cost."""
    clauses = [calibration(report), judges_of(report) if is_calibrated(report) else "", quantization(report)]
    return "; ".join(c for c in clauses if c) + "."


def calibration(report: Mapping[str, Any]) -> str:
    record, steps = report["calibration"], counted(report["steps"], "step")
    name = f"{report['bundle']} ({report['scheme']}, {steps})"
    if not record:
        return f"{name} has not been calibrated and draws with the stock schedule"
    if not is_calibrated(report):
        return f"calibration of {name} found nothing that may ship and left the stock schedule ({record['sentence']})"
    by = "the loss alone has let" if record["settings"]["accept"] == "loss" else "the judges of its gate have let"
    return f"{name} ships with other {listed(changed(report))}, which {by} through"


def changed(report: Mapping[str, Any]) -> list[str]:
    """What of the stock schedule calibration has moved, in words."""
    stock = {"timesteps": report["stock_timesteps"], "bias": None}
    record = {**report["calibration"], **report["coefficients"], "timesteps": report["timesteps"]}
    moved = [n for n in LEARNED if n in record and differs(record[n], stock.get(n, 1.0))]
    return [LEARNED[n] for n in moved]


def differs(column: Sequence[Any], stock: Any) -> bool:
    """`stock` is a column, one number for all, or None where there is none."""
    import numpy as np

    return stock is None or not np.array_equal(np.asarray(column, float), np.broadcast_to(stock, np.shape(column)))


def judges_of(report: Mapping[str, Any]) -> str:
    """What calibration has won and lost by the judges that the loss has not seen."""
    found, drawn = of_calibration(report), counted(report["prompts"]["count"], "held-out prompt")
    sides = {"better": told(found, 1), "worse": told(found, -1)}
    parts = [f"{word} by {named(side)}" for word, side in sides.items() if side]
    if parts:
        return f"on {drawn} judges find the pictures {' and '.join(parts)}"
    if any(e.judge == "report" for e in found):
        return f"on {drawn} no judge can tell whether the pictures are better or worse"
    return "no judge was at hand to say whether the pictures are better"


def quantization(report: Mapping[str, Any]) -> str:
    """What quantization alone has taken, and saved."""
    found = of_quantization(report)
    worse, better = told(found, -1), told(found, 1)
    saved = f"at {report['sizes']['bundle']['ratio']:.2f} times fewer bytes than FP16"
    if worse:
        return f"quantization cost {named(worse)} {saved}"
    if any(e.judge == "report" for e in found):
        gained = f" (better by {named(better)})" if better else ""
        return f"quantization cost nothing that a judge can tell{gained} {saved}"
    near = [e for e in found if e.judge == "nearness"]
    if not near:
        return f"nobody has said what quantization cost {saved}"
    value = near[0].reading["form"].format(report["cells"][PLAIN][near[0].measure])
    return f"quantized pictures have {value} of “{near[0].reading['label']}” {saved}"


def named(found: Sequence[Effect]) -> str:
    """The clearest of them, and how many more there are."""
    more = len(found) - 1
    return f"{found[0].text} and {more} more" if more else found[0].text


def listed(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)


def counted(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def warnings(report: Mapping[str, Any]) -> list[str]:
    """What the page says before anything else."""
    found, count = [], report["prompts"]["count"]
    worse = told(of_calibration(report), -1)
    if worse:
        found.append(
            f"What ships is judged worse than the stock schedule by {named(worse)}. By default (--accept gate) judges "
            "are asked before anything ships."
        )
    kinds = {e.judge for e in of_quantization(report)}
    if "report" not in kinds:
        found.append("No judge of pictures was at hand: the numbers say how near pictures are, not how good.")
    if count == 1:
        found.append("One prompt gives no interval: nothing below is more than an example.")
    elif count < FEW:
        found.append(f"{count} prompts: the intervals of so few say little.")
    record = report["calibration"]
    return [*found, *report["judges"]["left_out"], *(f"Calibration: {w}" for w in record.get("warnings", ()))]
