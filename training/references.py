"""Write the drawings that the embedded model's fitting prompts describe: `python -m training.references`.

A calibration with the loss `distribution` compares its pictures with them. Prompts that decide or report are other
ones, but for the two that both sets hold.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from qsched_edge.jaq.references import CAPTIONS
from qsched_edge.prompts import read_prompts
from training.captions import HERE, combinations
from training.drawings import Drawings

PROMPTS = HERE.parent / "calib_prompts/emoji.txt"
TARGET = HERE.parent / "models/emoji-references"
SEED = 4714
NOTE = """# Reference pictures of the embedded model

{count} drawings of 64 x 64 pixels, one for each prompt of `calib_prompts/emoji.txt`, in the order of that file, with
their captions in `metadata.jsonl`. `python -m training.references` made them of Twemoji, Noto Emoji and Fluent Emoji
Flat as the model's training composed its own ([training](../../training/README.md)). A calibration's loss
`distribution` compares with them. Of the 264 prompts that decide and report two have the caption of one of them
(`calib_prompts/emoji-heldout.txt` says why).

Licences: the drawings in twemoji style are Twemoji's, CC BY 4.0 (Twitter, Inc. and other contributors); those in noto
style Noto Emoji's, Apache 2.0 (Google LLC); those in fluent style Fluent Emoji's, MIT (Microsoft Corporation). Texts
and credits are in `../emoji/LICENSES`. Changes: rasterised, scaled, moved and put on a coloured background.
"""


def main() -> None:
    drawings, rng = Drawings(), np.random.default_rng(SEED)
    by_caption = {c.caption: c for c in combinations()}
    prompts = read_prompts(PROMPTS).prompts
    TARGET.mkdir(parents=True, exist_ok=True)
    lines = []
    for i, prompt in enumerate(prompts):
        name = f"{i:03d}.png"
        Image.fromarray(drawings.picture(by_caption[prompt], rng)).save(TARGET / name, optimize=True)
        lines.append(json.dumps({"file_name": name, "text": prompt}) + "\n")
    (TARGET / CAPTIONS).write_text("".join(lines))
    (TARGET / "README.md").write_text(NOTE.format(count=len(prompts)))


def size(folder: Path = TARGET) -> int:
    """Bytes of all files."""
    return sum(file.stat().st_size for file in folder.iterdir())


if __name__ == "__main__":
    main()
    print(f"{TARGET}: {size():,} bytes")
