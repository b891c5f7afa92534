"""A CLIP model in a local folder, as open_clip or transformers writes it: what text-image terms look through."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qsched_runtime.manifest import TokenizerSpec
from qsched_runtime.tokenize import load_tokenizer

from qsched_edge import torchvision_schema
from qsched_edge.errors import MetricError
from qsched_edge.jaq.fetching import OPEN_CLIP, TRANSFORMERS, folder_with

if TYPE_CHECKING:
    import torch


class ClipModel:
    """Unit-length features of images (0..1) and texts; differentiable in the images."""

    def __init__(self, model: Any, tokenize: Any, mean: Any, std: Any, device: str) -> None:
        import torch

        self.model, self.tokenize, self.device = model.to(device).eval().requires_grad_(False), tokenize, device
        self.size = model.visual.image_size
        self.mean, self.std = (torch.tensor(v, device=device).reshape(1, 3, 1, 1) for v in (mean, std))
        self.logit_scale = float(model.logit_scale.exp())
        self.text_features = lru_cache(maxsize=16384)(self._text_features)
        self._latest: tuple[torch.Tensor, torch.Tensor] | None = None

    @classmethod
    def of_folder(cls, folder: Path, device: str = "cpu") -> ClipModel:
        """`folder` holds open_clip_config.json and open_clip_model.safetensors, or transformers' config.json of a CLIP
        and model.safetensors; and, unless open_clip's own vocabulary fits, tokenizer.json. Raises MetricError naming
        what is missing."""
        folder_with(folder, (OPEN_CLIP, TRANSFORMERS))
        torchvision_schema.declare()
        if not (folder / OPEN_CLIP[0]).is_file():
            from qsched_edge.jaq.transformers_clip import transformers_clip

            model, mean, std = transformers_clip(folder)
            return cls(model, tokenizer_of(folder, model.context_length), mean, std, device)
        import open_clip

        config = json.loads((folder / OPEN_CLIP[0]).read_text("utf-8"))
        model = open_clip.create_model(f"local-dir:{folder}", precision="fp32")
        tokenize = tokenizer_of(folder, config["model_cfg"]["text_cfg"].get("context_length", 77))
        preprocess = config["preprocess_cfg"]
        return cls(model, tokenize, preprocess["mean"], preprocess["std"], device)

    @classmethod
    def of_checkpoint(cls, architecture: str, checkpoint: Path, device: str = "cpu") -> ClipModel:
        """One of open_clip's architectures with a local state dict; open_clip reads it without unpickling code."""
        torchvision_schema.declare()
        import open_clip

        try:
            model = open_clip.create_model(architecture, pretrained=str(checkpoint), precision="fp32")
        except (OSError, RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise MetricError(f"{checkpoint} is no {architecture} checkpoint of open_clip: {reason}") from error
        return cls(
            model, built_in(model.context_length), open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD, device
        )

    def image_features(self, images: torch.Tensor) -> torch.Tensor:
        """float32 [B, 3, H, W] in 0..1 -> [B, D] of length one; remembered until other images come."""
        if self._latest is None or self._latest[0] is not images:
            self._latest = (images, self._image_features(images))
        return self._latest[1]

    def _image_features(self, images: torch.Tensor) -> torch.Tensor:
        from torch.nn.functional import interpolate

        if tuple(images.shape[-2:]) != tuple(self.size):
            images = interpolate(images, self.size, mode="bicubic", antialias=True, align_corners=False)
        return self.model.encode_image((images - self.mean) / self.std, normalize=True)

    def _text_features(self, text: str) -> torch.Tensor:
        import torch

        with torch.no_grad():
            return self.model.encode_text(torch.tensor([self.tokenize(text)], device=self.device), normalize=True)[0]


@lru_cache(maxsize=4)
def clip_model(folder: Path, device: str = "cpu") -> ClipModel:
    """One model for all terms that look through it."""
    return ClipModel.of_folder(folder, device)


def tokenizer_of(folder: Path, length: int) -> Any:
    """The folder's own tokenizer.json, or open_clip's built-in vocabulary."""
    path = (folder / "tokenizer.json").resolve()  # the hub's cache holds links
    if path.is_file():
        vocabulary = json.loads(path.read_text("utf-8"))["model"]["vocab"]
        bos, eos = vocabulary["<|startoftext|>"], vocabulary["<|endoftext|>"]
        return load_tokenizer(path, TokenizerSpec("clip", path.name, length, bos, eos, eos))
    return built_in(length)


def built_in(length: int) -> Any:
    """open_clip's tokenizer: text -> `length` ids."""
    import open_clip

    tokenizer = open_clip.SimpleTokenizer(context_length=length)
    return lambda text: tokenizer([text])[0].tolist()
