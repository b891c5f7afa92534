"""What the student can do, by the judge it was never trained on: `python -m training.assess`.

Writes assessment.json, grid.png and curves.png into `models/emoji` and this folder.
"""

from __future__ import annotations

import csv
import json

import numpy as np
import torch
from diffusers import DDIMScheduler, LatentConsistencyModelPipeline, StableDiffusionPipeline
from PIL import Image

from qsched_edge.jaq.concepts import Classifier
from training import evaluator, publish, teacher
from training.captions import HERE, STYLES, Combination, combinations, concepts
from training.drawings import SIDE, Drawings
from training.loop import CURVES

BATCH = 32
STEPS, TEACHER_STEPS = 4, 50
GUIDANCE, TEACHER_GUIDANCE = 3.0, 2.0  # the student's was chosen on seen combinations
GRID = ("red-apple", "panda", "rocket", "hamburger", "sunflower", "octopus", "castle", "guitar", "snowman", "cactus")


def combinations_of(held_out: bool) -> list[Combination]:
    """One combination for each concept that has one, drawn with a fixed seed."""
    rng = np.random.default_rng(0)
    chosen = []
    for concept in concepts():
        mine = [c for c in combinations() if c.concept == concept and c.held_out == held_out]
        if mine:
            chosen.append(mine[rng.integers(len(mine))])
    return chosen


def draw(pipeline, prompts: list[str], steps: int, guidance_scale: float) -> np.ndarray:
    """float32 [N, 3, 64, 64] in -1..1; picture i has seed i."""
    pictures = []
    for start in range(0, len(prompts), BATCH):
        some = prompts[start : start + BATCH]
        generators = [torch.Generator("cpu").manual_seed(start + i) for i in range(len(some))]
        sampling = {"num_inference_steps": steps, "guidance_scale": guidance_scale, "generator": generators}
        pictures.append(pipeline(some, output_type="np", **sampling).images)
    return (np.concatenate(pictures).transpose(0, 3, 1, 2) * 2 - 1).astype(np.float32)


def measures(classifier: Classifier, pictures: np.ndarray, chosen: list[Combination]) -> dict[str, float]:
    """Top-1 and top-5 concept accuracy and the Fréchet distance to all real drawings."""
    parts = [classifier(pictures[i : i + 96]) for i in range(0, len(pictures), 96)]
    ranking, features = (np.concatenate(p) for p in zip(*parts, strict=True))
    labels = np.array([concepts().index(c.concept) for c in chosen])[:, None]
    return {
        "pictures": len(chosen),
        "top1": float((ranking[:, :1] == labels).any(1).mean()),
        "top5": float((ranking[:, :5] == labels).any(1).mean()),
        "frechet": classifier.frechet(features),
    }


def pipelines() -> dict[str, tuple[object, int, float]]:
    """The student as published and the teacher, each with its number of steps and guidance scale."""
    student = LatentConsistencyModelPipeline.from_pretrained(
        publish.TARGET, torch_dtype=torch.float32, safety_checker=None
    )
    guided = StableDiffusionPipeline(
        vae=student.vae,
        text_encoder=student.text_encoder,
        tokenizer=student.tokenizer,
        unet=teacher.load()["unet"],
        scheduler=DDIMScheduler(**teacher.SCHEDULE),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    for pipeline in (student, guided):
        pipeline.set_progress_bar_config(disable=True)
    return {
        f"student, {STEPS} steps": (student, STEPS, GUIDANCE),
        f"teacher, {TEACHER_STEPS} steps": (guided, TEACHER_STEPS, TEACHER_GUIDANCE),
    }


def main() -> None:
    classifier, drawings, rng = Classifier(evaluator.TARGET), Drawings(), np.random.default_rng(0)
    table = {}
    for split, held_out in (("seen combinations", False), ("held-out combinations", True)):
        chosen = combinations_of(held_out)
        real = np.stack([drawings.picture(c, rng) for c in chosen]).transpose(0, 3, 1, 2)
        table[f"real drawings, {split}"] = measures(classifier, (real / 127.5 - 1).astype(np.float32), chosen)
        for name, (pipeline, *sampling) in pipelines().items():
            pictures = draw(pipeline, [c.caption for c in chosen], *sampling)
            table[f"{name}, {split}"] = measures(classifier, pictures, chosen)
            print(f"{name}, {split}", table[f"{name}, {split}"], flush=True)
    (publish.TARGET / "assessment.json").write_text(json.dumps(table, indent=1) + "\n")
    save_grid()
    save_curves()


def save_grid() -> None:
    """A row for each style: the student's pictures of ten concepts on held-out or plain backgrounds."""
    student, *sampling = next(iter(pipelines().values()))
    rows = []
    for style in STYLES:
        chosen = [
            next(
                (c for c in combinations() if (c.concept, c.style) == (name, style) and c.held_out),
                Combination(name, style),
            )
            for name in GRID
        ]
        pictures = draw(student, [c.caption for c in chosen], *sampling)
        rows.append(np.concatenate(list(((pictures + 1) * 127.5).round().transpose(0, 2, 3, 1)), axis=1))
    grid = Image.fromarray(np.concatenate(rows).astype(np.uint8))
    grid.resize((len(GRID) * SIDE * 2, len(STYLES) * SIDE * 2), Image.Resampling.LANCZOS).save(
        publish.TARGET / "grid.png"
    )


def save_curves() -> None:
    """All loss curves in one picture."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    paths = sorted(CURVES.glob("*.csv"))
    figure, axes = pyplot.subplots(1, len(paths), figsize=(3.2 * len(paths), 2.8))
    for axis, path in zip(np.atleast_1d(axes), paths, strict=True):
        with path.open() as handle:
            rows = list(csv.DictReader(handle))
        axis.plot([int(r["step"]) for r in rows], [float(r["loss"]) for r in rows])
        axis.set(title=path.stem, xlabel="step", yscale="log")
    figure.tight_layout()
    figure.savefig(HERE / "curves.png", dpi=110)


if __name__ == "__main__":
    main()
