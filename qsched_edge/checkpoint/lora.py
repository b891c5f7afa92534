"""A LoRA fused while weights stream: W + scale alpha / r B A for every tensor it targets, one tensor at a time.

Keys are spelled as by diffusers and PEFT (`unet.<module>.lora_A.weight`, also `.lora.down.`, `_lora.down.`, with
`base_model.model.` or with the adapter's name, `lora_A.default.weight`) or as by kohya
(`lora_unet_<module>.lora_down.weight`, `lora_te_`, ...), in diffusers' names or the original SDXL code's. kohya's
underscores cannot be undone, so the model's own names are flattened as well.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from math import prod, sqrt
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from qsched_edge import torchvision_schema
from qsched_edge.checkpoint.weights import Weights, opened
from qsched_edge.errors import WeightsError

KOHYA = {"unet": "unet", "te": "text_encoder", "te1": "text_encoder", "te2": "text_encoder_2"}
COMPONENTS = {f"lora_{short}_": name for short, name in KOHYA.items()}
COMPONENTS |= {f"{name}.": name for name in ("transformer", *KOHYA.values())} | {"": "unet"}
KEY = re.compile(
    r"(?:unet\.(?=lora_unet_))?"  # save_lora_weights puts "unet." before kohya's names too
    rf"({'|'.join(map(re.escape, COMPONENTS))})(?:base_model\.model\.)?(.+?)"
    r"(?:[._]lora(?:_linear_layer)?[._](A|B|down|up)(?:\.default(?:_\d+)?)?\.weight|\.(alpha))"
)
ROLES = {"A": "down", "B": "up"}
FOREIGN = {"dora_scale": "DoRA", "lora_magnitude": "DoRA", "hada_": "LoHa", "lokr_": "LoKr", "lora_mid": "Tucker LoCon"}
ORIGINAL = re.compile(r"(input_blocks|middle_block|output_blocks|time_embed|label_emb|out)_\d")
Parts = dict[str, str]  # "down" (A), "up" (B) and "alpha" -> the file's key


class LoraFile(Weights):
    """The tensors of one LoRA file under its own keys."""

    def __init__(self, file: Path) -> None:
        super().__init__([file])
        self.file = file


class FusedWeights(Weights):
    """`base` plus what the LoRA adds to one component, named as in a diffusers folder ("unet", "text_encoder", ...).

    `base` may itself be fused; what the LoRA does not touch, or scale 0, streams unchanged. Without a recorded alpha,
    alpha / r is 1: a LoRA that was trained with another one and saved without it needs alpha / r in `scale`.
    """

    def __init__(self, base: Weights, lora: Path, component: str = "unet", scale: float = 1.0) -> None:
        # No super().__init__: `base` holds the files, and every method that reads is its own here.
        self.prefixes, self.aliases = base.prefixes, base.aliases
        self.base, self.lora, self.scale = base, LoraFile(lora), scale
        self._updates = updates(self.lora, base, component)

    def __getitem__(self, name: str) -> np.ndarray:
        shape = self.shape(name)
        return self.rows(name, 0, shape[0]) if shape else self.base[name]

    def rows(self, name: str, start: int, stop: int) -> np.ndarray:
        weight = self.base.rows(name, start, stop)
        parts, factor = self._updates.get(flat(name), ({}, 0.0))
        if not parts or self.scale == 0:
            return weight
        up, down = self.lora.rows(parts["up"], start, stop), self.lora[parts["down"]]
        delta = up.reshape(len(up), len(down)) @ down.reshape(len(down), -1)
        return weight + self.scale * factor * delta.reshape(weight.shape)

    def shape(self, name: str) -> tuple[int, ...]:
        return self.base.shape(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.base)

    def __len__(self) -> int:
        return len(self.base)


def lora_components(file: Path) -> dict[str, int]:
    """The components a LoRA changes, with the number of modules in each; WeightsError if it is no plain LoRA."""
    return {component: len(found) for component, found in modules(LoraFile(file)).items()}


def updates(lora: LoraFile, base: Weights, component: str) -> dict[str, tuple[Parts, float]]:
    """The keys and alpha / r for each tensor of `component` the LoRA targets, by flat name; every key must fit one."""
    mine = modules(lora).get(component, {})
    names = {flat(name): name for name in base}
    config = declared(lora.file, component) if mine else {}
    found: dict[str, tuple[Parts, float]] = {}
    astray: list[str] = []
    for module, parts in mine.items():
        target = target_of(module, names)
        if target in names and target not in found and fits(lora, parts, base.shape(names[target])):
            found[target] = parts, alpha_over_rank(lora, parts, config, names[target])
        else:
            astray += parts.values()
    if astray:
        advice = "give a complete LoRA that was made for this model"
        raise complaint(lora, astray, f"do not fit the {component}", advice)
    return found


def modules(lora: LoraFile) -> dict[str, dict[str, Parts]]:
    """The file's keys by component and module, as it is spelled there; refuses what is not an A, a B or an alpha."""
    matches = {key: match for key in lora if (match := KEY.fullmatch(key))}
    foreign = [key for key in lora if key not in matches]
    if foreign or not matches:
        kinds = sorted({kind for mark, kind in FOREIGN.items() if any(mark in key for key in foreign)})
        what = "are not those of a LoRA" + (f" but of {' and '.join(kinds)}" if kinds else "")
        raise complaint(lora, foreign, what, "give a plain LoRA or LoCon, only these can be fused")
    grouped: dict[str, dict[str, Parts]] = {}
    for key, match in matches.items():
        prefix, module, role, alpha = match.groups()
        parts = grouped.setdefault(COMPONENTS[prefix], {}).setdefault(module, {})
        known = parts.setdefault(alpha or ROLES.get(role, role), key)
        if known != key:
            raise complaint(lora, [known, key], "mean one tensor", "give a LoRA that names each once")
    return grouped


def complaint(lora: LoraFile, keys: list[str], what: str, advice: str) -> WeightsError:
    shown = ", ".join(keys[:3]) + (", ..." if len(keys) > 3 else "")
    return WeightsError(f"{lora.file.name}: {len(keys)} of {len(lora)} keys {what} ({shown}): {advice}")


def flat(name: str) -> str:
    """One spelling for a.b_c.weight and kohya's a_b_c_weight, without what came and went with library versions."""
    return name.replace(".processor.", ".").replace(".", "_").removeprefix("text_model_")


def target_of(module: str, names: Mapping[str, str]) -> str:
    """The flat tensor name among `names` that a LoRA's module means, or ""."""
    known = [name for name in spellings(module) if name in names]
    if not known and ORIGINAL.match(module):
        layers = sum(f"down_blocks_0_resnets_{i}_conv1_weight" in names for i in range(9))
        known = [name for name in spellings(from_original(module, layers)) if name in names]
    return known[0] if known else ""


def spellings(module: str) -> Iterator[str]:
    """A module's flat weight name; the attention processors of old LoRAs call to_out.0 to_out and q_proj to_q."""
    name = flat(module)
    yield f"{name}_weight"
    yield re.sub(r"_to_out$", "_to_out_0", name) + "_weight"
    yield re.sub(r"_to_(q|k|v|out)$", r"_\1_proj", name) + "_weight"


def from_original(module: str, layers: int) -> str:
    """diffusers' name of kohya's `module` in the original SDXL code's names, by diffusers' own converter of keys."""
    torchvision_schema.declare()
    import torch
    from diffusers import StableDiffusionXLPipeline

    keys = {f"lora_unet_{module}.lora_{role}.weight": torch.empty(0) for role in ("down", "up")}
    config = SimpleNamespace(layers_per_block=layers)
    try:
        renamed, _ = StableDiffusionXLPipeline.lora_state_dict(keys, unet_config=config)
    except (KeyError, ValueError, IndexError):  # how it says that it does not know a block
        return ""
    match = KEY.fullmatch(next(iter(renamed)))
    return match[2] if match else ""


def fits(lora: Weights, parts: Parts, shape: tuple[int, ...]) -> bool:
    """Do A [r, in, ...] and B [out, r] make the tensor's shape? The ones of 1 x 1 convolutions do not count."""
    if not {"down", "up"} <= parts.keys() or prod(lora.shape(parts["alpha"]) if "alpha" in parts else ()) != 1:
        return False
    shapes = (lora.shape(parts["down"]), lora.shape(parts["up"]), shape)
    down, up, weight = (s[:2] if prod(s[2:]) == 1 else s for s in shapes)
    return len(weight) > 1 and all(down) and down[1:] == weight[1:] and up == (weight[0], down[0])


def alpha_over_rank(lora: Weights, parts: Parts, config: Mapping[str, Any], name: str) -> float:
    """alpha / r; alpha is the file's own, else that of PEFT's configuration, else r."""
    rank = lora.shape(parts["down"])[0]
    if "alpha" in parts:
        return float(lora[parts["alpha"]].item()) / rank
    patterns = (config.get("alpha_pattern") or {}).items()
    own = (alpha for p, alpha in patterns if re.match(rf"(.*\.)?({p})$", name.removesuffix(".weight")))  # PEFT's rule
    alpha = float(next(own, config.get("lora_alpha") or rank))
    return alpha / (sqrt(rank) if config.get("use_rslora") else rank)


def declared(file: Path, component: str) -> dict[str, Any]:
    """PEFT's configuration of the component: in the file's header (diffusers) or in adapter_config.json beside it."""
    beside = file.with_name("adapter_config.json")
    with opened(file) as shard:
        text = (shard.metadata() or {}).get("lora_adapter_metadata", "{}")
    try:
        if file.name == "adapter_model.safetensors" and beside.is_file():
            text = beside.read_text("utf-8")
        pairs = [(*key.rpartition("."), value) for key, value in json.loads(text).items()]
    except (OSError, ValueError, AttributeError) as error:
        raise WeightsError(f"{file.name}: its PEFT configuration is damaged ({error}): save the LoRA again") from error
    return {key: value for owner, _, key, value in pairs if owner in ("", component)}
