"""The judge that calibration uses: a small open_clip model of captions and quality: `python -m training.scorer`."""

from __future__ import annotations

import json
import shutil

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from training import tokenizer
from training.captions import HERE, combinations
from training.degrade import Pictures, degrade
from training.loop import Settings, averaged, train

TARGET = HERE.parent / "models/emoji-scorer"
SETTINGS = Settings("scorer", steps=900, learning_rate=1e-3, warmup=100, cooldown=0.6, ema=0.995, weight_decay=0.05)
BATCH = 128
CONFIG = {
    "model_cfg": {
        "embed_dim": 128,
        "vision_cfg": {"image_size": 64, "patch_size": 8, "width": 192, "layers": 4, "head_width": 48},
        "text_cfg": {
            "context_length": tokenizer.LENGTH,
            "vocab_size": 1424,
            "width": 128,
            "heads": 4,
            "layers": 2,
        },
    },
    "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "size": [64, 64], "interpolation": "bicubic"},
}
QUALITY = {True: "a clean drawing of ", False: "a corrupted drawing of "}


def build():
    from open_clip import CLIP

    cfg = CONFIG["model_cfg"]
    return CLIP(cfg["embed_dim"], cfg["vision_cfg"], cfg["text_cfg"], quick_gelu=False)


def caption(text: str, clean: bool, rng: np.random.Generator) -> str:
    """The whole caption or its first part, with or without a word on quality (corrupted pictures mostly with)."""
    shortened = text.split(",")[0] if rng.random() < 0.15 else text
    return QUALITY[clean] + shortened if rng.random() < 0.5 or not clean else shortened


def batch(pictures: Pictures, bpe, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images in 0..1 and token ids: half clean, a quarter degraded, an eighth each decoded clean and damaged."""
    rng = np.random.default_rng(step)
    chosen = [combinations()[i] for i in rng.integers(len(combinations()), size=BATCH)]
    x = pictures.real(chosen, rng)
    half, quarter, eighth = BATCH // 2, BATCH // 4, BATCH // 8
    x[half : half + quarter] = degrade(x[half : half + quarter])
    x[-2 * eighth : -eighth] = pictures.decoded(x[-2 * eighth : -eighth], 0.0)
    x[-eighth:] = pictures.decoded(x[-eighth:], 1.0)
    clean = [i < half or half + quarter <= i < BATCH - eighth for i in range(BATCH)]
    texts = [caption(c.caption, good, rng) for c, good in zip(chosen, clean, strict=True)]
    ids = bpe(texts, padding="max_length", max_length=tokenizer.LENGTH, truncation=True, return_tensors="pt").input_ids
    return x, ids


def main() -> None:
    torch.manual_seed(1)
    model, pictures, bpe = build(), Pictures(), tokenizer.load()

    def loss_of(step: int) -> torch.Tensor:
        x, ids = batch(pictures, bpe, step)
        image = model.encode_image(x * 2 - 1, normalize=True)
        text = model.encode_text(ids, normalize=True)
        logits = model.logit_scale.exp().clamp(max=100) * image.float() @ text.float().T
        target = torch.arange(BATCH)
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2

    train(SETTINGS, model, loss_of)
    publish()


def publish() -> None:
    """Save as open_clip keeps a local folder, with the tokenizer beside it."""
    TARGET.mkdir(parents=True, exist_ok=True)
    weights = {k: v.half().contiguous() if v.is_floating_point() else v for k, v in averaged(SETTINGS.name).items()}
    save_file(weights, TARGET / "open_clip_model.safetensors")
    (TARGET / "open_clip_config.json").write_text(json.dumps(CONFIG, indent=1) + "\n")
    shutil.copyfile(tokenizer.FOLDER / "tokenizer.json", TARGET / "tokenizer.json")


if __name__ == "__main__":
    main()
