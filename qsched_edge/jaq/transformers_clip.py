"""A CLIP of transformers (PickScore and others are published so) with the few methods of open_clip's that are used."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from qsched_edge.errors import MetricError

if TYPE_CHECKING:
    import torch

MEAN, DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # OpenAI's
PREPROCESSOR = "preprocessor_config.json"


def transformers_clip(folder: Path) -> tuple[Any, Any, Any]:
    """(model, mean and deviation of the pixels) of the CLIPModel in `folder`; MetricError for another architecture."""
    import torch
    from transformers import CLIPModel

    config = json.loads((folder / "config.json").read_text("utf-8"))
    if config.get("model_type") != "clip":
        raise MetricError(f"{folder} holds a {config.get('model_type')!r} of transformers: a CLIP model is needed")
    model = CLIPModel.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
    file = folder / PREPROCESSOR
    pixels = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    return OpenClipLike(model), pixels.get("image_mean", MEAN), pixels.get("image_std", DEVIATION)


class OpenClipLike:
    """encode_image, encode_text, `visual.image_size`, `logit_scale` and `context_length`, as open_clip calls them."""

    def __init__(self, model: Any) -> None:
        vision, text = model.config.vision_config, model.config.text_config
        self.model, self.logit_scale = model, model.logit_scale
        self.visual = SimpleNamespace(image_size=(vision.image_size, vision.image_size))
        self.context_length: int = text.max_position_embeddings

    def encode_image(self, pixels: torch.Tensor, normalize: bool = False) -> torch.Tensor:
        found = self.model.visual_projection(self.model.vision_model(pixel_values=pixels).pooler_output)
        return unit(found) if normalize else found

    def encode_text(self, ids: torch.Tensor, normalize: bool = False) -> torch.Tensor:
        found = self.model.text_projection(self.model.text_model(input_ids=ids).pooler_output)
        return unit(found) if normalize else found

    def to(self, device: str) -> OpenClipLike:
        self.model.to(device)
        return self

    def eval(self) -> OpenClipLike:
        self.model.eval()
        return self

    def requires_grad_(self, needed: bool) -> OpenClipLike:
        self.model.requires_grad_(needed)
        return self


def unit(features: torch.Tensor) -> torch.Tensor:
    return features / features.norm(dim=-1, keepdim=True)
