"""How far pictures are, as a set, from reference pictures or from full precision's, by the features of a network.

`features` looks through DINOv2 (or another vision model of transformers), CLIP or torchvision's Inception; `shallow`
through the first stage of a convolutional classifier, which sees texture and little of what a picture shows. Both give
the Fréchet distance and the unbiased MMD. A set of few pictures makes Fréchet distances large: compare only sets of
one size, and read MMD where there are fewer pictures than features.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qsched_edge import torchvision_schema
from qsched_edge.errors import MetricError
from qsched_edge.jaq.clip import ClipModel
from qsched_edge.jaq.fetching import OPEN_CLIP, TRANSFORMERS, model_folder
from qsched_edge.jaq.frechet import Frechet, FrechetDistance, Gaussian
from qsched_edge.jaq.judges import Distance, Drawn, Look, Reading
from qsched_edge.jaq.mmd import MmdDistance
from qsched_edge.jaq.references import References
from qsched_edge.jaq.scored import WEIGHTS
from qsched_edge.jaq.settings import JudgeSource

if TYPE_CHECKING:
    import torch

KNOWN = {"dinov2": "facebook/dinov2-small", "clip": "openai/clip-vit-base-patch32"}  # short names of hub models
INCEPTION = "inception"  # torchvision's, of 109 MB
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's
REFERENCES_AT_ONCE = 32

Encode = Callable[["torch.Tensor"], "torch.Tensor"]  # images [B, 3, H, W] in 0..1 -> features [B, D]


class Features:
    """`label` names the network in the report; measures are "frechet LABEL" and "mmd LABEL"."""

    readings: Mapping[str, Reading] = {}

    def __init__(self, label: str, encode: Encode, files: frozenset[str], device: str) -> None:
        self.label, self.encode, self.files, self.device = label, encode, files, device
        self.distances = self.distances_to(None)

    def measured_against(self, references: References | None, side: int) -> Features:
        """The same judge with the distances to reference pictures, seen with `side` pixels."""
        if references:
            images = references.square(side)
            parts = [images[i : i + REFERENCES_AT_ONCE] for i in range(0, len(images), REFERENCES_AT_ONCE)]
            self.distances = self.distances_to(np.concatenate([self.of(part) for part in parts]))
        return self

    def distances_to(self, reference: np.ndarray | None) -> Mapping[str, Distance]:
        of = "full precision's pictures" if reference is None else "reference pictures"
        frechet = Reading(f"Fréchet distance to {of}, {self.label}", f"FD {self.label}", False, "{:.3f}", "{:+.3f}")
        mmd = Reading(f"MMD to {of}, {self.label}", f"MMD {self.label}", False, "{:.5f}", "{:+.5f}")
        fixed = None if reference is None else Frechet(Gaussian.of(reference))
        return {
            f"frechet {self.label}": FrechetDistance(frechet, fixed),
            f"mmd {self.label}": MmdDistance(mmd, reference),
        }

    def of(self, images: np.ndarray) -> np.ndarray:
        """float32 [B, 3, H, W] in 0..1 -> float32 [B, D]."""
        import torch

        with torch.no_grad():
            return self.encode(torch.from_numpy(images).to(self.device)).float().cpu().numpy()

    def look(self, drawn: Drawn) -> Look:
        return Look({}, self.of(drawn.images))

    def check(self, prompts: Sequence[str]) -> None:
        """Any will do."""


def features(source: JudgeSource) -> Features:
    """Of `source.what`: dinov2 (default), clip, inception, a folder or a hub id."""
    what = source.what or "dinov2"
    if what == INCEPTION:
        return Features(INCEPTION, *inception(source), source.device).measured_against(source.pictures(), 299)
    folder = model_folder(KNOWN.get(what, what), source.offline)
    encode, side = encoder_of(folder, source.device)
    label = what if what in KNOWN else Path(what).name
    return Features(label, encode, weights_in(folder), source.device).measured_against(source.pictures(), side)


def shallow(source: JudgeSource) -> Features:
    """Means and deviations of the first stage's channels of the convolutional model in the folder `source.what`."""
    if not source.what:
        raise MetricError("no model is named: shallow:FOLDER of a convolutional classifier of transformers")
    folder = model_folder(source.what, source.offline, (TRANSFORMERS,))
    model, normalised, side = vision_model(folder, source.device)

    def encode(images: torch.Tensor) -> torch.Tensor:
        import torch

        first = model(normalised(images, None), output_hidden_states=True).hidden_states[1]
        return torch.cat([first.mean(dim=(2, 3)), first.std(dim=(2, 3))], dim=1)

    label = f"shallow {folder.name}"
    return Features(label, encode, weights_in(folder), source.device).measured_against(source.pictures(), side)


def weights_in(folder: Path) -> frozenset[str]:
    return frozenset(str((folder / name).resolve()) for name in WEIGHTS if (folder / name).is_file())


def encoder_of(folder: Path, device: str) -> tuple[Encode, int]:
    """(images to features, pixels a side) of a CLIP or of another vision model of transformers."""
    config = folder / TRANSFORMERS[0]
    kind = json.loads(config.read_text("utf-8")).get("model_type") if config.is_file() else "clip"
    if (folder / OPEN_CLIP[0]).is_file() or kind == "clip":
        clip = ClipModel.of_folder(folder, device)
        return clip.image_features, int(clip.size[0] if isinstance(clip.size, (tuple, list)) else clip.size)
    model, normalised, side = vision_model(folder, device)

    def encode(images: torch.Tensor) -> torch.Tensor:
        output = model(normalised(images, side))
        pooled = getattr(output, "pooler_output", None)
        return (output.last_hidden_state[:, 0] if pooled is None else pooled).flatten(1)

    return encode, side


def vision_model(folder: Path, device: str) -> tuple[Any, Callable[[torch.Tensor, int | None], torch.Tensor], int]:
    """(model, images and their side to its input, pixels a side) of a vision model of transformers."""
    torchvision_schema.declare()
    import torch
    from transformers import AutoModel

    model = AutoModel.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
    model.eval().requires_grad_(False).to(torch.device(device))
    file = folder / "preprocessor_config.json"
    stored = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    mean, std = (
        torch.tensor(stored.get(key, default), device=device).reshape(1, 3, 1, 1)
        for key, default in (("image_mean", MEAN), ("image_std", DEVIATION))
    )
    crop = stored.get("crop_size") or stored.get("size") or {}
    own = crop.get("height") or crop.get("shortest_edge") if isinstance(crop, dict) else crop
    side = int(own or min(getattr(model.config, "image_size", None) or 224, 224))

    def normalised(images: torch.Tensor, to: int | None) -> torch.Tensor:
        return (resized(images, to or images.shape[-1]) - mean) / std

    return model, normalised, side


def resized(images: torch.Tensor, side: int) -> torch.Tensor:
    from torch.nn.functional import interpolate

    if tuple(images.shape[-2:]) == (side, side):
        return images
    return interpolate(images, (side, side), mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)


def inception(source: JudgeSource) -> tuple[Encode, frozenset[str]]:
    """The last pooled layer of torchvision's Inception v3, float32 [B, 2048]; torch.hub keeps its weights."""
    torchvision_schema.declare()
    import torch
    from torchvision.models import Inception_V3_Weights, inception_v3

    weights = Inception_V3_Weights.IMAGENET1K_V1
    file = Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rpartition("/")[2]
    if not file.is_file():
        if source.offline:
            raise MetricError(
                f"Inception's weights are not at {file}, and nothing is fetched offline: get {weights.url}"
            )
        print(f"fetching Inception v3: 109 MB, kept in {file.parent}", file=sys.stderr)
    try:
        model = inception_v3(weights=weights, transform_input=False)
    except (OSError, RuntimeError) as error:
        raise MetricError(f"Inception's weights cannot be fetched ({error}): get {weights.url} to {file}") from error
    model.fc = torch.nn.Identity()
    model.eval().requires_grad_(False).to(torch.device(source.device))
    mean, std = (torch.tensor(v, device=source.device).reshape(1, 3, 1, 1) for v in (MEAN, DEVIATION))
    return lambda images: model((resized(images, 299) - mean) / std), frozenset([str(file.resolve())])
