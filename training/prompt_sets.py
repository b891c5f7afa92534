"""Write the embedded model's prompt sets into `calib_prompts/`: `python -m training.prompt_sets`.

The held-out set has a prompt for every concept. Where none of a concept's combinations was held out from training (17
of 264) it is the plain drawing in noto style, which training has seen; two of these are among the fitting prompts too.
"""

from __future__ import annotations

import numpy as np

from training.captions import HERE, Combination, combinations, concepts

FOLDER = HERE.parent / "calib_prompts"
FIT = 128
HEADER = """# {title}
# source: captions of the drawings the embedded model was trained on, made by training/prompt_sets.py
# licence: CC0-1.0
# split: {split}
"""


def write(name: str, title: str, split: str, chosen: list[Combination]) -> None:
    lines = "".join(c.caption + "\n" for c in chosen)
    (FOLDER / name).write_text(HEADER.format(title=title, split=split) + lines)


def main() -> None:
    rng = np.random.default_rng(2509_01624)
    seen = [c for c in combinations() if not c.held_out]
    fit = [seen[i] for i in rng.choice(len(seen), size=FIT, replace=False)]
    write("emoji.txt", "Prompts to fit coefficients on.", "fit; combinations the model was trained on", fit)
    held_out = []
    for concept in concepts():  # one prompt for each concept, in an order where any beginning is a fair sample
        mine = [c for c in combinations() if c.concept == concept and c.held_out]
        held_out.append(mine[rng.integers(len(mine))] if mine else Combination(concept, "noto"))
    rng.shuffle(held_out)
    new, fitted = sum(c.held_out for c in held_out), len(set(held_out) & set(fit))
    split = (
        f"held out; {new} of {len(held_out)} are combinations that neither training nor fitting has seen;\n"
        f"# training has seen the other {len(held_out) - new}, whose concepts have no such combination; "
        f"{fitted} of them are in emoji.txt too"
    )
    write("emoji-heldout.txt", "Prompts that decide and report.", split, held_out)


if __name__ == "__main__":
    main()
