"""A checkpoint in one safetensors file, in its authors' layout: which components are in it, under diffusers' names.

Names and splits are those of diffusers' own converters, recorded without a value and repeated tensor by tensor.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from qsched_edge import torchvision_schema
from qsched_edge.checkpoint.replay import Recorded, record, replay
from qsched_edge.checkpoint.weights import Weights, opened
from qsched_edge.errors import WeightsError

UNET, OPEN_CLIP = "model.diffusion_model.", ("cond_stage_model.model.", "conditioner.embedders.1.model.")
FLUX = ("double_blocks.0.", f"{UNET}double_blocks.0.")
# component -> what its tensors' names begin with, in the layouts that are read
PREFIXES: dict[str, tuple[str, ...]] = {
    "transformer": (*FLUX, "transformer_blocks.0."),
    "unet": (f"{UNET}input_blocks.", "down_blocks.0."),
    "vae": ("first_stage_model.", "vae."),
    "text_encoder": (
        "cond_stage_model.transformer.", OPEN_CLIP[0], "conditioner.embedders.0.transformer.",
        "text_encoders.clip_l.transformer.",
    ),
    "text_encoder_2": (OPEN_CLIP[1], "text_encoders.t5xxl.transformer."),
}  # fmt: skip
State = dict[str, Any]


@dataclass(frozen=True)
class SingleFile:
    """`shapes` of all tensors in `file`, by the file's own keys."""

    file: Path
    shapes: Mapping[str, tuple[int, ...]]

    @property
    def components(self) -> tuple[str, ...]:
        return tuple(name for name in PREFIXES if self.prefix_of(name))

    def prefix_of(self, component: str) -> str:
        """What the component's keys begin with, or ""."""
        known = (p for p in PREFIXES.get(component, ()) if any(key.startswith(p) for key in self.shapes))
        return next(known, "")

    def weights(self, component: str, config: Mapping[str, Any], *names: Any) -> ConvertedWeights:
        """The component's tensors as diffusers names them; `names` are the prefixes and aliases of `Weights`."""
        converter = converter_of(component, self.prefix_of(component))
        mine = {key: s for key, s in self.shapes.items() if "model_ema." not in key}
        try:
            found = record(lambda state: converter(state, config), mine)
        except (KeyError, IndexError, ValueError, RuntimeError, AttributeError) as error:
            raise WeightsError(f"{self.file.name}: its {component} has another layout ({error!r})") from error
        return ConvertedWeights(self.file, found, *names)

    def base(self) -> str:
        """The repository of the model it is a version of, as diffusers tells it from its tensors."""
        torchvision_schema.declare()
        import torch
        from diffusers.loaders.single_file_utils import infer_diffusers_model_type

        if width := self.shapes.get(CROSS, (0, 0))[1]:
            kind = WIDTHS.get(width, "v1")
        elif "transformer_blocks.0.attn.to_q.weight" in self.shapes:
            kind = "flux-dev" if any("guidance_embedder" in key for key in self.shapes) else "flux-schnell"
        else:
            with torch.device("meta"):
                kind = infer_diffusers_model_type({k: torch.empty(s) for k, s in self.shapes.items()})
            if kind not in READ:
                raise WeightsError(
                    f"{self.file.name} is a checkpoint of the kind {kind}: these are read: {', '.join(READ)}"
                )
        return repository_of(kind)


def repository_of(kind: str) -> str:
    """Where diffusers looks for what belongs to a kind of checkpoint."""
    torchvision_schema.declare()
    from diffusers.loaders.single_file_utils import DIFFUSERS_DEFAULT_PIPELINE_PATHS

    return str(DIFFUSERS_DEFAULT_PIPELINE_PATHS[kind]["pretrained_model_name_or_path"])


CROSS = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight"  # [*, width of the text states]
READ = ("v1", "v2", "xl_base", "flux-schnell", "flux-dev")  # as diffusers calls them
WIDTHS = {768: "v1", 1024: "v2", 2048: "xl_base"}


@cache
def single_file(file: Path) -> SingleFile:
    """Raises WeightsError for a file that holds no component that is known here."""
    with opened(file) as shard:
        found = SingleFile(file, {key: tuple(shard.get_slice(key).get_shape()) for key in shard.keys()})  # noqa: SIM118
    network = {"unet", "transformer"} & set(found.components)
    strange = not network and any(key.startswith(UNET) for key in found.shapes)  # another family's, beside a known VAE
    if strange or not found.components:
        shown = ", ".join(list(found.shapes)[:3])
        lora = any(".lora_" in key for key in found.shapes)
        advice = "a LoRA goes onto a model: --lora" if lora else "give a diffusers folder"
        raise WeightsError(f"{file.name} ({shown}, ...) has no layout that is read: {advice}")
    return found


class ConvertedWeights(Weights):
    """Recorded tensors of a file: each is converted when it is read."""

    def __init__(self, file: Path, recorded: Mapping[str, Recorded], *names: Any) -> None:
        super().__init__([], *names)
        self.recorded = recorded
        self._files = {name: (file, name) for name in recorded}
        self._shapes = {name: tensor.shape for name, tensor in recorded.items()}

    def _read(self, name: str, part: Any) -> np.ndarray:
        file, key = self._files[self._key(name)]
        with opened(file) as shard:
            return replay(self.recorded[key].origin, shard.get_tensor)[part].float().numpy().copy()


def converter_of(component: str, prefix: str) -> Callable[[State, Mapping[str, Any]], Mapping[str, Any]]:
    """diffusers' own, for tensors whose names begin with `prefix`."""
    torchvision_schema.declare()
    from diffusers.loaders import single_file_utils as stock

    if prefix in ("down_blocks.0.", "transformer_blocks.0."):
        return lambda state, config: state
    if prefix in FLUX:
        return lambda state, config: stock.convert_flux_transformer_checkpoint_to_diffusers(flux_keys(state))
    if component == "unet":
        return stock.convert_ldm_unet_checkpoint
    if component == "vae":
        return stock.convert_ldm_vae_checkpoint
    if prefix in OPEN_CLIP:
        return lambda state, config: stock.convert_open_clip_checkpoint(
            SimpleNamespace(config=SimpleNamespace(**config)), state, prefix
        )
    return lambda state, config: stock.convert_ldm_clip_checkpoint(state, prefix)


def flux_keys(state: State) -> State:
    """The transformer's alone: what else a file holds must not be taken for a guidance embedder."""
    others = tuple(p for name, prefixes in PREFIXES.items() if name != "transformer" for p in prefixes)
    return {key: tensor for key, tensor in state.items() if not key.startswith(others)}


def unpacked_vae(single: SingleFile, folder: Path) -> Path:
    """A folder with the file's autoencoder in diffusers' form and the configuration in `folder`: calibration opens it
    with torch. Written once, to the user's cache."""
    from safetensors.torch import save_file

    stat = single.file.stat()
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    target = home / "qsched-edge" / f"{single.file.stem}-{stat.st_size}-{stat.st_mtime_ns}" / "vae"
    if (target / "config.json").is_file():
        return target
    target.mkdir(parents=True, exist_ok=True)
    config = json.loads((folder / "config.json").read_text("utf-8"))
    weights, partial = single.weights("vae", config), target / ".weights.partial"
    with opened(single.file) as shard:
        tensors = {name: replay(t.origin, shard.get_tensor).clone() for name, t in weights.recorded.items()}
    save_file(tensors, partial)
    partial.rename(target / "diffusion_pytorch_model.safetensors")
    shutil.copyfile(folder / "config.json", target / ".config.partial")
    (target / ".config.partial").rename(target / "config.json")
    return target
