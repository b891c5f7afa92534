"""An open_clip model in a local folder: what both JAQ terms of the embedded model are made of."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qsched_runtime.manifest import TokenizerSpec
from qsched_runtime.tokenize import load_tokenizer

from qsched_edge import torchvision_schema
from qsched_edge.errors import MetricError

if TYPE_CHECKING:
    import torch


class ClipModel:
    """Unit-length features of images (0..1) and texts; differentiable in the images.

    `folder` holds open_clip_config.json, open_clip_model.safetensors and, unless open_clip's own vocabulary fits,
    tokenizer.json. Raises MetricError naming what is missing.
    """

    def __init__(self, folder: Path) -> None:
        for name in ("open_clip_config.json", "open_clip_model.safetensors"):
            if not (folder / name).is_file():
                raise MetricError(f"scorer {folder} has no {name}: give the folder of an open_clip model")
        torchvision_schema.declare()
        import open_clip
        import torch

        self.config = json.loads((folder / "open_clip_config.json").read_text("utf-8"))
        self.model = open_clip.create_model(f"local-dir:{folder}", precision="fp32").eval().requires_grad_(False)
        self.tokenize = tokenizer_of(folder, self.config["model_cfg"]["text_cfg"]["context_length"])
        preprocess = self.config["preprocess_cfg"]
        self.size = self.model.visual.image_size
        self.mean, self.std = (torch.tensor(preprocess[n]).reshape(1, 3, 1, 1) for n in ("mean", "std"))
        self.text_features = lru_cache(maxsize=16384)(self._text_features)

    @property
    def logit_scale(self) -> float:
        return float(self.model.logit_scale.exp())

    def image_features(self, images: torch.Tensor) -> torch.Tensor:
        """float32 [B, 3, H, W] in 0..1 -> [B, D] of length one."""
        from torch.nn.functional import interpolate

        if tuple(images.shape[-2:]) != tuple(self.size):
            images = interpolate(images, self.size, mode="bicubic", antialias=True, align_corners=False)
        return self.model.encode_image((images - self.mean) / self.std, normalize=True)

    def _text_features(self, text: str) -> torch.Tensor:
        import torch

        with torch.no_grad():
            return self.model.encode_text(torch.tensor([self.tokenize(text)]), normalize=True)[0]


def tokenizer_of(folder: Path, length: int) -> Any:
    """The folder's own tokenizer.json, or open_clip's built-in vocabulary."""
    path = folder / "tokenizer.json"
    if path.is_file():
        vocabulary = json.loads(path.read_text("utf-8"))["model"]["vocab"]
        bos, eos = vocabulary["<|startoftext|>"], vocabulary["<|endoftext|>"]
        return load_tokenizer(path, TokenizerSpec("clip", path.name, length, bos, eos, eos))
    import open_clip

    tokenizer = open_clip.SimpleTokenizer(context_length=length)
    return lambda text: tokenizer([text])[0].tolist()
