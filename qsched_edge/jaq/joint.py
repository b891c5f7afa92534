"""Encoders that look through a network: CLIP's features of a picture with those of its caption, and judges' features.

A caption's features stand beside the picture's, both of length one. MMD's cubic kernel multiplies the likeness of two
pictures with that of their captions, so that sets are near only where pictures go with captions as they do among the
references: the joint law of pictures and captions is compared, not that of pictures alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from qsched_edge.jaq import features as judges
from qsched_edge.jaq.clip import ClipModel, clip_model
from qsched_edge.jaq.encoders import Encoder
from qsched_edge.jaq.fetching import model_folder
from qsched_edge.jaq.settings import JudgeSource


class Joint:
    """float32 [N, 2 D]: a CLIP's features of the picture, then of the caption; [N, D] without captions."""

    def __init__(self, model: ClipModel, files: frozenset[str]) -> None:
        self.model, self.files = model, files

    def __call__(self, images: np.ndarray, captions: Sequence[str]) -> np.ndarray:
        import torch

        with torch.no_grad():
            found = [self.model.image_features(torch.from_numpy(images).to(self.model.device))]
            if captions:
                found.append(torch.stack([self.model.text_features(text) for text in captions]))
            return torch.cat(found, dim=1).float().cpu().numpy()


class Pictures:
    """What a judge of features sees, whatever the caption."""

    def __init__(self, judge: judges.Features) -> None:
        self.judge, self.files = judge, judge.files

    def __call__(self, images: np.ndarray, captions: Sequence[str]) -> np.ndarray:
        return self.judge.of(images)


def clip(source: JudgeSource) -> Encoder:
    """The CLIP called `source.what`, by default the scorer of the terms."""
    folder = model_folder(source.what or source.terms.scorer, source.offline)
    return Joint(clip_model(folder, source.device), judges.weights_in(folder))


def features(source: JudgeSource) -> Encoder:
    return Pictures(judges.features(replace(source, references="")))


def shallow(source: JudgeSource) -> Encoder:
    return Pictures(judges.shallow(replace(source, references="")))
