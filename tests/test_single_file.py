"""Checkpoints in one file, in their authors' layout: the bundle is that of the diffusers folder."""

from __future__ import annotations

import json
from pathlib import Path
from types import FunctionType

import families
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from test_defaults import contents

from benchmarks import original_layout
from qsched_edge.checkpoint.recipes import Overrides, resolve
from qsched_edge.checkpoint.single_file import single_file
from qsched_edge.errors import WeightsError
from qsched_edge.export.run import export
from qsched_edge.export.settings import ExportSettings


def scheduler():  # type: ignore[no-untyped-def]
    from diffusers import LCMScheduler

    return LCMScheduler(**families.BETAS)


KINDS = {
    "sd": (families.stable_diffusion, original_layout.stable_diffusion),
    "xl": (families.stable_diffusion_xl, original_layout.stable_diffusion_xl),
}


def states_of(pipeline) -> dict[str, dict[str, torch.Tensor]]:  # type: ignore[no-untyped-def]
    networks = {name: part for name, part in pipeline.components.items() if isinstance(part, torch.nn.Module)}
    return {name: network.state_dict() for name, network in networks.items()}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_single_file_gives_the_bundle_of_the_diffusers_folder(kind: str, tmp_path: Path) -> None:
    build, to_single = KINDS[kind]
    torch.manual_seed(1)
    base = families.save(build(scheduler()), tmp_path / "base")  # the same architecture, other weights
    torch.manual_seed(0)
    pipeline = build(scheduler())
    folder, file = families.save(pipeline, tmp_path / "mine"), tmp_path / "mine.safetensors"
    save_file(
        {name: tensor.contiguous() for name, tensor in to_single(states_of(pipeline), 1, [True, False]).items()}, file
    )
    export(resolve(str(file), Overrides(base=str(base))), ExportSettings(4), tmp_path / "ours", quiet=True)
    export(resolve(str(folder)), ExportSettings(4), tmp_path / "theirs", quiet=True)
    ours, theirs = contents(tmp_path / "ours"), contents(tmp_path / "theirs")
    told = [json.loads(files.pop("qsched.json")) for files in (ours, theirs)]
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == []
    components = ("unet", "text_encoder") if kind == "sd" else ("unet", "text_encoder", "text_encoder_2")
    sources = told[0]["provenance"].pop("sources")
    assert {f"{name}/mine.safetensors" for name in components} <= sources.keys()
    assert sources.keys() - {"vae_decoder/diffusion_pytorch_model.safetensors"} == {
        f"{name}/mine.safetensors" for name in components
    }
    told[1]["provenance"].pop("sources")
    for raw in told:
        raw.pop("recipe")
    assert told[0] == told[1]


def rows_agree(weights, state: dict[str, torch.Tensor]) -> None:  # type: ignore[no-untyped-def]
    for name, tensor in state.items():
        assert weights.shape(name) == tuple(tensor.shape), name
        assert np.array_equal(weights[name], tensor.float().numpy()), name
        half = tensor.shape[0] // 2
        assert np.array_equal(weights.rows(name, half, tensor.shape[0]), tensor[half:].float().numpy()), name


def test_the_text_encoder_of_stable_diffusion_2_is_split_and_renamed(tmp_path: Path) -> None:
    model, file = families.clip_text(), tmp_path / "v2.safetensors"
    unet = families.unet(32)
    state = original_layout.open_clip(model.state_dict(), "cond_stage_model.model.")
    save_file({**state, **original_layout.ldm_unet(unet.state_dict(), 1, [True, False])}, file)
    single = single_file(file)
    assert single.components == ("unet", "text_encoder")
    rows_agree(single.weights("text_encoder", model.config.to_dict(), ("text_model.",)), model.state_dict())
    rows_agree(single.weights("unet", unet.config), unet.state_dict())


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_flux_transformers_in_their_own_layout(prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusers.loaders import single_file_utils as stock

    transformer, file = families.flux().transformer, tmp_path / "flux.safetensors"
    save_file({prefix + name: t for name, t in original_layout.flux(transformer.state_dict()).items()}, file)
    name = "convert_flux_transformer_checkpoint_to_diffusers"
    convert = getattr(stock, name)
    constants = tuple(32 if value == 3072 else value for value in convert.__code__.co_consts)  # the miniature's width
    small = FunctionType(convert.__code__.replace(co_consts=constants), stock.__dict__, closure=convert.__closure__)
    monkeypatch.setattr(stock, name, small)
    single = single_file(file)
    assert single.components == ("transformer",)
    assert single.base() == "black-forest-labs/FLUX.1-schnell"
    rows_agree(single.weights("transformer", transformer.config), transformer.state_dict())


def test_a_networks_file_in_diffusers_names_stands_in_for_it(tmp_path: Path) -> None:
    torch.manual_seed(1)
    base = families.save(families.stable_diffusion(scheduler()), tmp_path / "base")
    network, file = families.unet(32), tmp_path / "sd15_lightning_4step.safetensors"
    save_file(network.state_dict(), file)
    found = resolve(str(file), Overrides(base=str(base)))
    rows_agree(found.weights("unet", found.part("unet")), network.state_dict())
    assert found.weight_files("vae", found.part("vae"))[0].parent == base / "vae"
    assert (found.recipe.name, found.recipe.scheduler, found.recipe.guidance) == (
        file.stem,
        "EulerDiscreteScheduler",
        0,
    )
    assert found.scheduler_config()["timestep_spacing"] == "trailing"


def test_files_that_hold_no_known_component_are_refused(tmp_path: Path) -> None:
    save_file({"something.else": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match=r"other\.safetensors \(something\.else.*no layout that is read"):
        resolve(str(tmp_path / "other.safetensors"))
    save_file(
        {"model.diffusion_model.joint_blocks.0.x": torch.zeros(2), "vae.x": torch.zeros(2)},
        tmp_path / "sd3.safetensors",
    )
    with pytest.raises(WeightsError, match="no layout that is read: give a diffusers folder"):
        resolve(str(tmp_path / "sd3.safetensors"))
    save_file({"lora_unet_x.lora_down.weight": torch.zeros(2)}, tmp_path / "lora.safetensors")
    with pytest.raises(WeightsError, match="a LoRA goes onto a model: --lora"):
        resolve(str(tmp_path / "lora.safetensors"))
    (tmp_path / "cut.safetensors").write_bytes(b"1234")
    with pytest.raises(WeightsError, match="cannot be read as safetensors"):
        resolve(str(tmp_path / "cut.safetensors"))


@pytest.mark.parametrize(("width", "base"), [(768, "stable-diffusion-v1-5"), (2048, "stable-diffusion-xl-base-1.0")])
def test_what_a_file_lacks_comes_from_the_model_it_is_a_version_of(width: int, base: str, tmp_path: Path) -> None:
    file, name = tmp_path / "unet.safetensors", "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight"
    save_file({"down_blocks.0.resnets.0.conv1.weight": torch.zeros(1), name: torch.zeros(4, width)}, file)
    assert single_file(file).base().endswith(base)
