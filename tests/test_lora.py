"""A LoRA fused by us is what diffusers' load_lora_weights and fuse_lora make of the same file."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from qsched_edge.checkpoint.lora import FusedWeights, LoraFile, lora_components, updates
from qsched_edge.checkpoint.weights import Weights, weight_files
from qsched_edge.errors import WeightsError

pytest.importorskip("peft")  # diffusers fuses through it; qsched_edge.checkpoint.lora does without

RANK, ALPHA = 4, 3.0
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
# What LCM-LoRA, PCM and DMD2 train, as their scripts list it.
FEW_STEP = (
    *ATTENTION,
    *("proj_in", "proj_out", "ff.net.0.proj", "ff.net.2", "conv1", "conv2", "conv_shortcut"),
    *("downsamplers.0.conv", "upsamplers.0.conv", "time_emb_proj"),
)
EVERYTHING = (*FEW_STEP, "conv_in", "conv_out", "linear_1", "linear_2")
TEXT = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")

Tensors = dict[str, torch.Tensor]
Pairs = dict[str, tuple[torch.Tensor, torch.Tensor]]  # module -> A [r, in, ...], B [out, r, ...]


def unet(kind: str, layers: int = 1) -> torch.nn.Module:
    from diffusers import UNet2DConditionModel

    xl = {
        "use_linear_projection": True,
        "transformer_layers_per_block": (1, 2),
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 80,
    }
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 64),
        layers_per_block=layers,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=2,
        **(xl if kind == "sdxl" else {}),
    )


def text_encoder(kind: str) -> torch.nn.Module:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        projection_dim=24,
        bos_token_id=1,
        eos_token_id=2,
    )
    return (CLIPTextModelWithProjection if kind == "text_encoder_2" else CLIPTextModel)(config)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of random weights: two U-Nets, one with SDXL's traits, and CLIP without and with a projection."""
    torch.manual_seed(0)
    made = {"sd15": unet("sd15"), "sdxl": unet("sdxl", layers=2)}
    made |= {kind: text_encoder(kind) for kind in ("text_encoder", "text_encoder_2")}
    folder = tmp_path_factory.mktemp("lora")
    for kind, model in made.items():
        model.save_pretrained(folder / kind)
    return {kind: folder / kind for kind in made}


def state(folder: Path) -> Tensors:
    (file,) = weight_files(folder)
    return load_file(file)


def fused(folder: Path, lora: Path, component: str = "unet", scale: float = 1.0) -> dict[str, np.ndarray]:
    weights = FusedWeights(Weights(weight_files(folder)), lora, component, scale)
    assert all(weights.shape(name) == weights[name].shape for name in weights)
    return dict(weights)


def random_pairs(weights: Mapping[str, torch.Tensor], targets: tuple[str, ...], rank: int = RANK) -> Pairs:
    """A pair for every module that ends like a target, scaled so that the weights change by about a tenth."""
    generator = torch.Generator().manual_seed(rank)
    pairs: Pairs = {}
    for name, weight in weights.items():
        module = name.removesuffix(".weight")
        if name.endswith(".weight") and f".{module}".endswith(tuple(f".{t}" for t in targets)):
            down = torch.randn(rank, *weight.shape[1:], generator=generator)
            up = torch.randn(weight.shape[0], rank, *[1] * (weight.ndim - 2), generator=generator)
            pairs[module] = down * 0.1, up * 0.1
    return pairs


def dotted(pairs: Pairs, prefix: str, down: str, up: str) -> Tensors:
    return {f"{prefix}{m}{end}": t for m, pair in pairs.items() for end, t in zip((down, up), pair, strict=True)}


def peft_keys(pairs: Pairs, prefix: str = "unet.") -> Tensors:
    return dotted(pairs, prefix, ".lora_A.weight", ".lora_B.weight")


def processor_keys(pairs: Pairs) -> Tensors:
    """diffusers before 0.22: attention layers were parts of the attention's processor."""
    keys = dotted(pairs, "unet.", "_lora.down.weight", "_lora.up.weight")
    return {k.replace(".to_", ".processor.to_").replace("to_out.0_", "to_out_"): t for k, t in keys.items()}


def kohya_keys(pairs: Pairs, prefix: str = "lora_unet_", alpha: float | None = ALPHA) -> Tensors:
    keys = dotted(
        {m.replace(".", "_"): pair for m, pair in pairs.items()}, prefix, ".lora_down.weight", ".lora_up.weight"
    )
    alphas = (
        {} if alpha is None else {re.sub(r"\.lora_(down|up).*", ".alpha", key): torch.tensor(alpha) for key in keys}
    )
    return {**keys, **alphas}


def written(folder: Path, tensors: Tensors, metadata: dict[str, str] | None = None) -> Path:
    file = folder / "lora.safetensors"
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, file, metadata)
    return file


def by_diffusers(folders: Mapping[str, Path], loras: Mapping[Path, float]) -> dict[str, Tensors]:
    """component -> tensors, after diffusers has loaded the LoRAs and fused each at its scale."""
    import diffusers
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    classes = {"text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection}
    classes["unet"] = diffusers.UNet2DConditionModel
    held = {name: classes[name].from_pretrained(folder) for name, folder in folders.items()}
    xl = held["unet"].config.addition_embed_type is not None
    names = ["vae", "text_encoder", "tokenizer", "unet", "scheduler"]
    names += ["text_encoder_2", "tokenizer_2"] if xl else ["safety_checker", "feature_extractor"]
    pipeline_class = diffusers.StableDiffusionXLPipeline if xl else diffusers.StableDiffusionPipeline
    more = {} if xl else {"requires_safety_checker": False}
    pipeline = pipeline_class(**{name: held.get(name) for name in names}, **more)
    for number, file in enumerate(loras):
        pipeline.load_lora_weights(file.parent, weight_name=file.name, adapter_name=f"a{number}")
    if len(loras) > 1:
        pipeline.set_adapters([f"a{number}" for number in range(len(loras))], list(loras.values()))
    scale = next(iter(loras.values())) if len(loras) == 1 else 1.0
    pipeline.fuse_lora(components=list(held), lora_scale=scale)
    pipeline.unload_lora_weights()
    return {name: model.state_dict() for name, model in held.items()}


def assert_same(ours: Mapping[str, np.ndarray], theirs: Tensors, before: Tensors, targets: int) -> None:
    """Everything agrees, `targets` tensors have changed and the rest is bit-identical to the base."""
    assert ours.keys() == theirs.keys()
    changed = {name for name in ours if not np.array_equal(ours[name], before[name].numpy())}
    assert len(changed) == targets
    for name in ours:
        assert ours[name].dtype == np.float32
        np.testing.assert_allclose(ours[name], theirs[name].numpy(), atol=1e-6, rtol=0, err_msg=name)


STYLES: dict[str, tuple[tuple[str, ...], Callable[[Pairs], Tensors]]] = {
    "peft": (FEW_STEP, peft_keys),
    "diffusers": (EVERYTHING, lambda pairs: dotted(pairs, "unet.", ".lora.down.weight", ".lora.up.weight")),
    "processor": (ATTENTION, processor_keys),
    "kohya": (FEW_STEP, kohya_keys),
    "kohya without alpha": (FEW_STEP, lambda pairs: kohya_keys(pairs, alpha=None)),
}


@pytest.mark.parametrize("scale", [1.0, -1.5, pytest.param(0.35, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["sd15", "sdxl"])
@pytest.mark.parametrize("style", STYLES)
def test_unet_is_what_diffusers_fuses(
    style: str, kind: str, scale: float, models: dict[str, Path], tmp_path: Path
) -> None:
    targets, spell = STYLES[style]
    before = state(models[kind])
    pairs = random_pairs(before, targets)
    file = written(tmp_path, spell(pairs))
    theirs = by_diffusers({"unet": models[kind]}, {file: scale})["unet"]
    assert_same(fused(models[kind], file, scale=scale), theirs, before, len(pairs))
    assert lora_components(file) == {"unet": len(pairs)}


@pytest.mark.parametrize("style", ["unet.base_model.model.", "base_model.model.", "", "unet.lora_unet_"])
def test_styles_that_diffusers_cannot_load_are_the_same_lora(
    style: str, models: dict[str, Path], tmp_path: Path
) -> None:
    pairs = random_pairs(state(models["sd15"]), FEW_STEP)
    spell = kohya_keys if "lora_unet" in style else peft_keys
    plain = fused(models["sd15"], written(tmp_path, spell(pairs)))
    other = fused(models["sd15"], written(tmp_path, spell(pairs, style)))
    assert all(np.array_equal(plain[name], other[name]) for name in plain)


@pytest.mark.parametrize("prefix", ["", "unet.", "base_model.model."])
@pytest.mark.parametrize("adapter", ["default", "default_0"])
def test_an_adapter_named_in_memory_is_the_same_lora(
    prefix: str, adapter: str, models: dict[str, Path], tmp_path: Path
) -> None:
    """PEFT names the adapter in a model's state dict and leaves the name out of the files it writes."""
    from peft import LoraConfig

    network = unet("sd15")
    network.add_adapter(LoraConfig(r=RANK, target_modules=list(ATTENTION), init_lora_weights=False), adapter)
    trained = {f"{prefix}{key}": tensor for key, tensor in network.state_dict().items() if ".lora_" in key}
    assert all(f".{adapter}.weight" in key for key in trained)
    plain = {key.replace(f".{adapter}.", "."): tensor for key, tensor in trained.items()}
    expected, found = (fused(models["sd15"], written(tmp_path, tensors)) for tensors in (plain, trained))
    before = state(models["sd15"])
    assert any(not np.array_equal(found[name], before[name].numpy()) for name in found)
    assert all(np.array_equal(expected[name], found[name]) for name in found)


def original_name(module: str) -> str:
    """The name of a diffusers module in the original SDXL code, for two resnets in each block."""
    renames = {
        **{"conv_in": "input_blocks.0.0", "conv_out": "out.2", "time_embedding.linear_1": "time_embed.0"},
        **{"time_embedding.linear_2": "time_embed.2", "add_embedding.linear_1": "label_emb.0.0"},
        "add_embedding.linear_2": "label_emb.0.2",
    }
    if module in renames:
        return renames[module]
    side, *rest = module.split(".")
    if side == "mid_block":
        part, number, *inner = rest
        place = f"middle_block.{1 if part == 'attentions' else 2 * int(number)}"
    else:
        block, part, number, *inner = rest
        index = 3 * int(block) + int(number)
        if part == "downsamplers":
            return f"input_blocks.{3 * int(block) + 3}.0.op"
        if part == "upsamplers":
            return f"output_blocks.{3 * int(block) + 2}.2.conv"
        at = f"input_blocks.{index + 1}" if side == "down_blocks" else f"output_blocks.{index}"
        place = f"{at}.{int(part == 'attentions')}"
    leaf = ".".join(inner)
    leaves = {"conv1": "in_layers.2", "conv2": "out_layers.3", "time_emb_proj": "emb_layers.1"}
    return f"{place}.{leaves.get(leaf, leaf).replace('conv_shortcut', 'skip_connection')}"


def test_original_sdxl_names_mean_what_the_checkpoint_converter_says(models: dict[str, Path], tmp_path: Path) -> None:
    """Two sources: diffusers' loader of LoRAs and its converter of whole checkpoints, which is other code."""
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    before = state(models["sdxl"])
    pairs = random_pairs(before, EVERYTHING)
    checkpoint = {
        f"model.diffusion_model.{original_name(m)}.{end}": torch.tensor(i)
        for i, m in enumerate(pairs)
        for end in ("weight", "bias")
    }
    config = json.loads((models["sdxl"] / "config.json").read_text())
    converted = convert_ldm_unet_checkpoint(dict(checkpoint), config | {"num_class_embeds": None})
    assert {name: int(i) for name, i in converted.items() if name.endswith(".weight")} == {
        f"{m}.weight": i for i, m in enumerate(pairs)
    }
    file = written(tmp_path, kohya_keys({original_name(m): pair for m, pair in pairs.items()}))
    theirs = by_diffusers({"unet": models["sdxl"]}, {file: 0.8})["unet"]
    assert_same(fused(models["sdxl"], file, scale=0.8), theirs, before, len(pairs))


def test_kohya_in_diffusers_names_reaches_the_embeddings(models: dict[str, Path], tmp_path: Path) -> None:
    """diffusers 0.39 loses add_embedding's numbers, so what it makes of the same pairs in its own keys is the truth."""
    before = state(models["sdxl"])
    pairs = random_pairs(before, EVERYTHING)
    (tmp_path / "own").mkdir()
    truth = written(tmp_path / "own", peft_keys(pairs))
    theirs = by_diffusers({"unet": models["sdxl"]}, {truth: 1.0})["unet"]
    file = written(tmp_path, kohya_keys(pairs, alpha=RANK))
    assert_same(fused(models["sdxl"], file), theirs, before, len(pairs))


@pytest.mark.parametrize("kohya", [False, True])
def test_text_encoders_are_what_diffusers_fuses(kohya: bool, models: dict[str, Path], tmp_path: Path) -> None:
    """One file for the U-Net and both encoders of an SDXL pipeline."""
    folders = {"unet": models["sdxl"], **{name: models[name] for name in ("text_encoder", "text_encoder_2")}}
    before = {name: state(folder) for name, folder in folders.items()}
    targets = {"unet": FEW_STEP, "text_encoder": TEXT, "text_encoder_2": TEXT}
    pairs = {name: random_pairs(before[name], targets[name]) for name in folders}
    short = {"unet": "lora_unet_", "text_encoder": "lora_te1_", "text_encoder_2": "lora_te2_"}
    tensors: Tensors = {}
    for name in folders:
        tensors |= kohya_keys(pairs[name], short[name]) if kohya else peft_keys(pairs[name], f"{name}.")
    file = written(tmp_path, tensors)
    theirs = by_diffusers(folders, {file: 0.6})
    for name, folder in folders.items():
        assert_same(fused(folder, file, name, 0.6), theirs[name], before[name], len(pairs[name]))
    assert lora_components(file) == {name: len(found) for name, found in pairs.items()}


@pytest.mark.parametrize("prefix", ["lora_te_", "lora_te1_", "text_encoder."])
@pytest.mark.parametrize("infix", ["", "text_model."])
@pytest.mark.parametrize("old_file", [False, True])
def test_text_model_in_names_comes_and_goes(
    prefix: str, infix: str, old_file: bool, models: dict[str, Path], tmp_path: Path
) -> None:
    """CLIPTextModel lost "text_model." in transformers 5: LoRAs and checkpoints of both times must meet."""
    before = state(models["text_encoder"])
    pairs = random_pairs(before, TEXT)
    truth = written(tmp_path, peft_keys(pairs, "text_encoder."))
    theirs = by_diffusers({"text_encoder": models["text_encoder"], "unet": models["sd15"]}, {truth: 1.0})
    spelled = {infix + m: pair for m, pair in pairs.items()}
    file = written(tmp_path, peft_keys(spelled, prefix) if prefix[-1] == "." else kohya_keys(spelled, prefix, RANK))
    folder = tmp_path / "encoder"
    folder.mkdir()
    save_file(
        {("text_model." if old_file else "") + name: t for name, t in before.items()}, folder / "model.safetensors"
    )
    weights = FusedWeights(Weights(weight_files(folder), ("text_model.",)), file, "text_encoder")
    ours = {name: weights[name] for name in before}
    assert_same(ours, theirs["text_encoder"], before, len(pairs))


def test_old_text_encoder_keys(models: dict[str, Path], tmp_path: Path) -> None:
    """diffusers before 0.20 (to_q_lora) and before 0.22 (lora_linear_layer), which diffusers itself converts."""
    before = state(models["text_encoder_2"])
    pairs = random_pairs(before, TEXT[:4])
    newer = dotted(pairs, "text_encoder_2.", ".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight")
    older = {k.replace("_proj.lora_linear_layer.", "_lora.").replace("attn.", "attn.to_"): t for k, t in newer.items()}
    assert "text_encoder_2.text_model.encoder.layers.0.self_attn.to_out_lora.down.weight" in older
    folders = {"unet": models["sdxl"], **{name: models[name] for name in ("text_encoder", "text_encoder_2")}}
    for tensors in (newer, older):
        file = written(tmp_path, tensors)
        theirs = by_diffusers(folders, {file: 1.0})["text_encoder_2"]
        assert_same(fused(models["text_encoder_2"], file, "text_encoder_2"), theirs, before, len(pairs))


@pytest.mark.parametrize("rslora", [False, True])
def test_alphas_of_a_configuration_diffusers_saved(rslora: bool, models: dict[str, Path], tmp_path: Path) -> None:
    from diffusers import StableDiffusionPipeline, UNet2DConditionModel
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    config = LoraConfig(
        r=8,
        lora_alpha=2,
        rank_pattern={"ff.net.2": 3},
        alpha_pattern={"attn1.to_q": 5, r"down_blocks\.0.*\.conv1": 1},
        use_rslora=rslora,
        init_lora_weights="gaussian",
        target_modules=list(FEW_STEP),
    )
    model = UNet2DConditionModel.from_pretrained(models["sd15"])
    torch.manual_seed(1)
    model.add_adapter(config)
    layers = {k: torch.randn_like(t) * 0.1 for k, t in get_peft_model_state_dict(model).items()}
    StableDiffusionPipeline.save_lora_weights(tmp_path, layers, unet_lora_adapter_metadata=config.to_dict())
    file = tmp_path / "pytorch_lora_weights.safetensors"
    theirs = by_diffusers({"unet": models["sd15"]}, {file: 0.5})["unet"]
    assert_same(fused(models["sd15"], file, scale=0.5), theirs, state(models["sd15"]), len(layers) // 2)


def test_alphas_of_a_folder_peft_saved(models: dict[str, Path], tmp_path: Path) -> None:
    from diffusers import UNet2DConditionModel
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(2)
    config = LoraConfig(r=8, lora_alpha=2, init_lora_weights=False, target_modules=list(FEW_STEP))
    model = get_peft_model(UNet2DConditionModel.from_pretrained(models["sd15"]), config)
    model.save_pretrained(tmp_path)
    ours = fused(models["sd15"], tmp_path / "adapter_model.safetensors")
    theirs = model.merge_and_unload().state_dict()
    before = state(models["sd15"])
    assert_same(ours, theirs, before, sum(not torch.equal(theirs[name], before[name]) for name in before))


def test_each_module_has_its_own_alpha_and_rank(models: dict[str, Path], tmp_path: Path) -> None:
    """By the definition, on inputs: W x + scale alpha / r B (A x); half-precision pairs, [r, in] for 1 x 1 too."""
    before = state(models["sd15"])
    tensors: Tensors = {}
    pairs: Pairs = {}
    alphas = {}
    for number, target in enumerate(("conv1", "proj_in", "to_q", "ff.net.2", "conv_shortcut")):
        found = random_pairs(before, (target,), rank=number + 1)
        halves = {m: (a.half(), b.half()) for m, (a, b) in found.items()}
        stored = {m: (a[..., 0, 0], b[..., 0, 0]) if target == "proj_in" else (a, b) for m, (a, b) in halves.items()}
        tensors |= kohya_keys(stored, alpha=number + 0.5)
        pairs |= {m: (a.float(), b.float()) for m, (a, b) in halves.items()}
        alphas |= dict.fromkeys(found, number + 0.5)
    ours = fused(models["sd15"], written(tmp_path, tensors), scale=0.7)
    for module, (a, b) in pairs.items():
        weight = before[f"{module}.weight"]
        conv = weight.ndim == 4
        x = torch.randn(2, weight.shape[1], *([5, 5] if conv else []))
        apply = torch.nn.functional.conv2d if conv else torch.nn.functional.linear
        expected = apply(x, weight) + 0.7 * alphas[module] / len(a) * apply(apply(x, a), b)
        torch.testing.assert_close(apply(x, torch.from_numpy(ours[f"{module}.weight"])), expected, atol=1e-5, rtol=1e-5)


def test_mixed_ranks_without_alpha_have_factor_one(models: dict[str, Path], tmp_path: Path) -> None:
    """diffusers 0.39 scales these by the first key's rank; huggingface/diffusers#14409 made it 1."""
    before = state(models["sd15"])
    pairs = random_pairs(before, ("ff.net.0.proj",), 2) | random_pairs(before, ("to_q",), 5)
    ours = fused(models["sd15"], written(tmp_path, peft_keys(pairs)))
    for module, (a, b) in pairs.items():
        np.testing.assert_allclose(ours[f"{module}.weight"], before[f"{module}.weight"] + b @ a, atol=1e-6)


def test_two_loras_stack(models: dict[str, Path], tmp_path: Path) -> None:
    before = state(models["sd15"])
    loras = {}
    for number, (targets, scale) in enumerate([(FEW_STEP, 0.9), (ATTENTION, 0.4)]):
        folder = tmp_path / str(number)
        folder.mkdir()
        loras[written(folder, kohya_keys(random_pairs(before, targets, number + 2)))] = scale
    theirs = by_diffusers({"unet": models["sd15"]}, loras)["unet"]
    (first, a), (second, b) = loras.items()
    inner = FusedWeights(Weights(weight_files(models["sd15"])), first, scale=a)
    assert_same(dict(FusedWeights(inner, second, scale=b)), theirs, before, len(random_pairs(before, FEW_STEP)))


def test_other_components_are_untouched(models: dict[str, Path], tmp_path: Path) -> None:
    before = state(models["text_encoder"])
    file = written(tmp_path, kohya_keys(random_pairs(state(models["sd15"]), FEW_STEP)))
    assert_same(fused(models["text_encoder"], file, "text_encoder"), before, before, 0)


class Header(LoraFile):
    """Names and shapes of a file that is not there."""

    def __init__(self, tensors: Mapping[str, torch.Tensor], file: Path) -> None:
        self.shapes, self.file = {key: tuple(tensor.shape) for key, tensor in tensors.items()}, file

    def __getitem__(self, name: str) -> np.ndarray:
        return np.ones(self.shapes[name], np.float32)

    def shape(self, name: str) -> tuple[int, ...]:
        return self.shapes[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


SDXL = {
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
SD15 = {"cross_attention_dim": 768, "attention_head_dim": 8}
TRANSFORMERS = FEW_STEP[:8]  # what kohya's scripts train unless told otherwise


@pytest.mark.parametrize(
    ("config", "targets", "name", "tensors"),
    [
        (SD15, FEW_STEP, str, 834),  # LCM-LoRA and PCM: 834 tensors, rank 64, 134 621 556 and 134 621 524 bytes
        (SDXL, FEW_STEP, str, 2364),  # LCM-LoRA, PCM, DMD2, SDXL-Lightning, Hyper-SD: 2364 tensors
        (SDXL, TRANSFORMERS, original_name, 2166),  # kohya's SDXL scripts: 722 modules in the original names
    ],
)
def test_every_key_of_the_published_layouts_finds_its_tensor(
    config: dict[str, object], targets: tuple[str, ...], name: Callable[[str], str], tensors: int, tmp_path: Path
) -> None:
    """The real architectures without weights, and the keys as the published files have them."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        weights = UNet2DConditionModel(**config).state_dict()
        keys = kohya_keys({name(m): pair for m, pair in random_meta(weights, targets).items()})
    assert len(keys) == tensors
    file = written(tmp_path, {"unused": torch.zeros(1)})  # declared() reads a header
    assert len(updates(Header(keys, file), Header(weights, file), "unet")) == tensors // 3


def random_meta(weights: Mapping[str, torch.Tensor], targets: tuple[str, ...]) -> Pairs:
    modules = [name.removesuffix(".weight") for name in weights if name.endswith(".weight")]
    chosen = {m: weights[f"{m}.weight"].shape for m in modules if f".{m}".endswith(tuple(f".{t}" for t in targets))}
    return {m: (torch.empty(64, *s[1:]), torch.empty(s[0], 64, *[1] * (len(s) - 2))) for m, s in chosen.items()}


def test_reads_only_the_rows_at_hand(models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = state(models["sd15"])
    file = written(tmp_path, kohya_keys(random_pairs(before, FEW_STEP)))
    read: dict[str, object] = {}
    original = Weights._read

    def spy(self: Weights, name: str, part: object) -> np.ndarray:
        read[name] = part
        return original(self, name, part)

    monkeypatch.setattr(Weights, "_read", spy)
    weights = FusedWeights(Weights(weight_files(models["sd15"])), file)
    assert all(name.endswith(".alpha") for name in read)
    read.clear()
    name, stem = "mid_block.resnets.0.conv1", "lora_unet_mid_block_resnets_0_conv1"
    rows = weights.rows(f"{name}.weight", 5, 9)
    part = slice(5, 9)
    assert read == {f"{name}.weight": part, f"{stem}.lora_up.weight": part, f"{stem}.lora_down.weight": slice(0, RANK)}
    np.testing.assert_allclose(rows, weights[f"{name}.weight"][5:9], atol=1e-7)
    read.clear()
    assert np.array_equal(weights.rows(f"{name}.bias", 0, 3), before[f"{name}.bias"][:3])
    assert list(read) == [f"{name}.bias"]


@pytest.fixture(scope="module")
def lora(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("one"), kohya_keys(random_pairs(state(models["sd15"]), FEW_STEP)))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(scale=st.floats(-4, 4, width=32))
def test_the_update_is_linear_in_the_scale(models: dict[str, Path], lora: Path, scale: float) -> None:
    base = Weights(weight_files(models["sd15"]))
    names = ("down_blocks.0.resnets.0.conv1.weight", "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight")
    some, whole = FusedWeights(base, lora, scale=scale), FusedWeights(base, lora)
    for name in names:
        np.testing.assert_allclose(some[name] - base[name], scale * (whole[name] - base[name]), atol=2e-6)


def test_scale_zero_changes_no_bit(models: dict[str, Path], tmp_path: Path) -> None:
    """Not even the sign of a zero, and not if the LoRA is damaged."""
    before = state(models["sd15"])
    before["conv_in.weight"][0] = -0.0
    folder = tmp_path / "unet"
    folder.mkdir()
    save_file(before, folder / "model.safetensors")
    pairs = {m: (a, b * torch.nan) for m, (a, b) in random_pairs(before, EVERYTHING).items()}
    ours = fused(folder, written(tmp_path, peft_keys(pairs)), scale=0.0)
    assert all(ours[name].tobytes() == tensor.numpy().tobytes() for name, tensor in before.items())


Q = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
PAIR = {f"{Q}.lora_down.weight": torch.ones(2, 64), f"{Q}.lora_up.weight": torch.ones(64, 2)}


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        (PAIR | {f"{Q}.dora_scale": torch.ones(64)}, r"1 of 3 keys .* DoRA \(\S+dora_scale\): give a plain LoRA"),
        ({"unet.x.lora_magnitude_vector": torch.ones(2)}, "DoRA"),
        ({f"{Q}.hada_w{i}": torch.ones(1) for i in ("1_a", "1_b", "2_a", "2_b")}, r"4 of 4 keys .* LoHa .*, \.\.\.\)"),
        ({f"{Q}.lokr_w1": torch.ones(1), f"{Q}.alpha": torch.ones(1)}, "1 of 2 keys .* LoKr"),
        (PAIR | {f"{Q}.lora_mid.weight": torch.ones(2, 2, 3, 3)}, "Tucker LoCon"),
        ({"unet.conv_in.lora_B.bias": torch.ones(1)}, r"not those of a LoRA \("),
        ({"conv_in.weight": torch.ones(1)}, r"not those of a LoRA \(conv_in.weight\)"),
        ({}, "0 of 0 keys are not those of a LoRA"),
        (
            {k.replace("mid_block", "mid_blocks"): t for k, t in PAIR.items()},
            "2 of 2 keys do not fit the unet .*mid_blocks",
        ),
        ({k.replace("mid_block_attentions_0", "input_blocks_99_1"): t for k, t in PAIR.items()}, "do not fit the unet"),
        ({k.replace("mid_block_attentions_0", "middle_block_7"): t for k, t in PAIR.items()}, "do not fit the unet"),
        (PAIR | {f"{Q}.lora_up.weight": torch.ones(32, 2)}, "2 of 2 keys do not fit the unet"),
        (PAIR | {f"{Q}.lora_down.weight": torch.ones(2, 96)}, "2 of 2 keys do not fit the unet"),
        (PAIR | {f"{Q}.lora_down.weight": torch.ones(3, 64)}, "2 of 2 keys do not fit the unet"),
        (PAIR | {f"{Q}.lora_down.weight": torch.ones(2, 64, 3, 3)}, "2 of 2 keys do not fit the unet"),
        (PAIR | {f"{Q}.alpha": torch.ones(2)}, "3 of 3 keys do not fit the unet"),
        ({f"{Q}.lora_down.weight": torch.ones(2, 64)}, "1 of 1 keys do not fit the unet .*complete LoRA"),
        ({f"{Q}.alpha": torch.ones(())}, "1 of 1 keys do not fit the unet"),
        (
            PAIR | {f"unet.{k}": t.clone() for k, t in PAIR.items()},
            r"2 of 4 keys mean one tensor \(lora\S+, unet\.lora\S+\)",
        ),
        (
            PAIR
            | peft_keys(
                {"mid_block.attentions.0.transformer_blocks.0.attn1.to_q": (torch.ones(2, 64), torch.ones(64, 2))}
            ),
            "do not fit the unet",
        ),
    ],
)
def test_what_cannot_be_fused_is_refused_in_one_line(
    tensors: Tensors, said: str, models: dict[str, Path], tmp_path: Path
) -> None:
    file = written(tmp_path, tensors)
    with pytest.raises(WeightsError, match=said) as error:
        fused(models["sd15"], file)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith("lora.safetensors: ")


def test_a_lora_of_another_model_names_three_of_its_keys(models: dict[str, Path], tmp_path: Path) -> None:
    """SDXL's LoRA on SD 1.5: only what does not fit is counted."""
    file = written(tmp_path, peft_keys(random_pairs(state(models["sdxl"]), FEW_STEP)))
    with pytest.raises(WeightsError, match=r"\d+ of \d+ keys do not fit the unet \((\S+, ){3}\.\.\.\): give") as error:
        fused(models["sd15"], file)
    count, total = (int(word) for word in str(error.value).split() if word.isdigit())
    assert 0 < count < total


def test_damaged_files_are_refused(models: dict[str, Path], tmp_path: Path) -> None:
    damaged = written(tmp_path, PAIR, {"lora_adapter_metadata": "{"})
    with pytest.raises(WeightsError, match="PEFT configuration is damaged"):
        fused(models["sd15"], damaged)
    damaged.write_bytes(b"no safetensors")
    with pytest.raises(WeightsError, match="cannot be read as safetensors"):
        fused(models["sd15"], damaged)
    with pytest.raises(WeightsError, match="cannot be read as safetensors"):
        lora_components(tmp_path / "missing.safetensors")


def test_transformers_are_components_too(tmp_path: Path) -> None:
    weight = torch.randn(6, 5)
    save_file({"blocks.0.attn.to_q.weight": weight}, tmp_path / "model.safetensors")
    a, b = torch.randn(2, 5), torch.randn(6, 2)
    file = written(tmp_path, peft_keys({"blocks.0.attn.to_q": (a, b)}, "transformer."))
    ours = fused(tmp_path, file, "transformer")["blocks.0.attn.to_q.weight"]
    np.testing.assert_allclose(ours, weight + b @ a, atol=1e-6)
