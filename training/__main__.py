"""`python -m training`: every stage in order; each goes on where an interrupted run stopped."""

from __future__ import annotations

from training import (
    assess,
    autoencoder,
    evaluator,
    gate,
    grain,
    latents,
    prompt_sets,
    publish,
    references,
    scorer,
    student,
    teacher,
)


def main() -> None:
    autoencoder.main()
    latents.load()
    for stage in (scorer, evaluator, teacher, student, publish, gate, grain, prompt_sets, references, assess):
        stage.main()


if __name__ == "__main__":
    main()
