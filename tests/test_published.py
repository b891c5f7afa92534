"""Checkpoints as they were published, by older versions of diffusers and transformers: what the stock loaders make of
the same files decides."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import families
import numpy as np
import pytest
import torch
from conftest import TOKENIZER
from qsched_runtime import Sampler
from qsched_runtime.manifest import read as read_manifest
from safetensors.torch import load_file, save_file
from test_families import FAMILIES, PROMPTS, SIZES, assert_same

from qsched_edge.calibrate.decoder import Decoder
from qsched_edge.checkpoint import hub
from qsched_edge.checkpoint.hub import HubId, hub_id
from qsched_edge.checkpoint.recipes import ModelSpec, Overrides, locate, plain_recipe, read_recipe, resolve
from qsched_edge.checkpoint.stock import with_defaults
from qsched_edge.checkpoint.weights import Weights, weight_files
from qsched_edge.errors import QSchedError, RecipeError, WeightsError
from qsched_edge.export.run import export
from qsched_edge.export.settings import ExportSettings
from qsched_edge.pipelines import Choices, layout_of
from qsched_edge.pipelines.parts import autoencoder_plans
from qsched_edge.pipelines.tokenizers import load_tokenizer
from training.names import rename_text_encoder

HEAD = 'title = "Miniature"\nlicense = "CC0-1.0"\ngroup_size = 16\nsteps = [4]\nguidance = 0.0\n'
ATTENTION = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
# what diffusers 0.6.0 wrote of each class, without its version and class name
KEYS = {
    "vae": "act_fn block_out_channels down_block_types in_channels latent_channels layers_per_block norm_num_groups "
    "out_channels sample_size up_block_types",
    "unet": "act_fn attention_head_dim block_out_channels center_input_sample cross_attention_dim down_block_types "
    "downsample_padding flip_sin_to_cos freq_shift in_channels layers_per_block mid_block_scale_factor norm_eps "
    "norm_num_groups out_channels sample_size up_block_types",
}
WEIGHTS = "diffusion_pytorch_model.safetensors"


def rewrite(path: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


def rename(file: Path, name: Callable[[str], str]) -> None:
    """The same tensors under other keys, without the header's metadata."""
    save_file({name(key): tensor for key, tensor in load_file(file).items()}, file)


def old_attention(key: str) -> str:
    for today, name in ATTENTION.items():
        key = re.sub(rf"(mid_block\.attentions\.0)\.{re.escape(today)}\.", rf"\1.{name}.", key)
    return key


def as_in_2022(folder: Path, scheduler: dict[str, Any]) -> Path:
    """What the pipeline in `folder` would be if diffusers 0.6.0 and transformers 4.22 had saved it."""
    for component, keys in KEYS.items():
        kept = {"_diffusers_version", "_class_name", *keys.split()}
        rewrite(
            folder / component / "config.json",
            lambda c, kept=kept: {k: v for k, v in c.items() if k in kept} | {"_diffusers_version": "0.6.0"},
        )
    rename(folder / "vae" / WEIGHTS, old_attention)
    text = folder / "text_encoder/model.safetensors"
    tensors = {f"text_model.{key}": tensor for key, tensor in load_file(text).items()}
    positions = torch.arange(tensors["text_model.embeddings.position_embedding.weight"].shape[0])[None]
    save_file({**tensors, "text_model.embeddings.position_ids": positions}, text)
    shutil.rmtree(folder / "scheduler")
    (folder / "scheduler").mkdir()
    (folder / "scheduler/scheduler_config.json").write_text(json.dumps({**scheduler, "_diffusers_version": "0.6.0"}))
    no_fast_tokenizer(folder / "tokenizer")
    rewrite(
        folder / "model_index.json",
        lambda index: {
            "_class_name": index["_class_name"],
            "_diffusers_version": "0.6.0",
            "feature_extractor": ["transformers", "CLIPFeatureExtractor"],
            "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
            "scheduler": ["diffusers", scheduler["_class_name"]],
            **{name: index[name] for name in ("text_encoder", "tokenizer", "unet", "vae")},
        },
    )
    return folder


def no_fast_tokenizer(folder: Path) -> None:
    """vocab.json and merges.txt, as before tokenizer.json."""
    table = json.loads((folder / "tokenizer.json").read_text())["model"]
    (folder / "vocab.json").write_text(json.dumps(table["vocab"]))
    merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in table["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    (folder / "tokenizer.json").unlink()


DDIM = {"_class_name": "DDIMScheduler", "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
PNDM = {
    "_class_name": "PNDMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "skip_prk_steps": True,
}
PUBLISHED = {"ddim": (DDIM, ""), "pndm": (PNDM, 'scheduler = "LCMScheduler"\n')}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stable Diffusion's miniature as today's diffusers saves it."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("published") / "sd"
    return families.save(FAMILIES["sd-turbo"][0](), folder)


def with_recipe(folder: Path, lines: str = "") -> ModelSpec:
    recipe = folder.parent / f"{folder.name}.toml"
    recipe.write_text(f'{HEAD}source = "{folder.name}"\n{lines}')
    return resolve(str(recipe))


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_checkpoint_of_2022_draws_as_in_diffusers(name: str, saved: Path, tmp_path: Path) -> None:
    import diffusers

    scheduler, lines = PUBLISHED[name]
    folder = as_in_2022(Path(shutil.copytree(saved, tmp_path / "sd")), scheduler)
    spec = with_recipe(folder, lines)
    # the oracle gets the folder alone: it renames, fills in and corrects by itself
    oracle = diffusers.StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, feature_extractor=None)
    if spec.recipe.scheduler:
        oracle.scheduler = getattr(diffusers, spec.recipe.scheduler).from_config(oracle.scheduler.config)
    oracle.set_progress_bar_config(disable=True)
    bundle = export(spec, ExportSettings(32), tmp_path / "w32", quiet=True)
    latents = read_manifest(bundle).latents
    assert latents.scaling_factor == oracle.vae.config.scaling_factor == 0.18215
    assert latents.height == oracle.unet.config.sample_size == 64, "diffusers does not believe early files' sizes"
    height, width = SIZES[1]
    request = {"num_inference_steps": 4, "height": height, "width": width}
    generator = torch.Generator("cpu").manual_seed(5)
    theirs = oracle(PROMPTS, guidance_scale=0.0, generator=generator, output_type="np", **request).images
    assert_same(Sampler.from_pretrained(bundle)(PROMPTS, seed=5, **request).images, np.round(theirs * 255))
    decoder = Decoder(folder / "vae", latents)
    for key, tensor in oracle.vae.state_dict().items():
        assert torch.equal(decoder.coder.network.state_dict()[key], tensor), key


def clip_family(projection: int) -> tuple[Any, Any]:
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    return families.clip_text(projection), CLIPTextModelWithProjection if projection else CLIPTextModel


def t5_family() -> tuple[Any, Any]:
    from transformers import T5Config, T5EncoderModel

    sizes = {"vocab_size": 40, "d_model": 16, "d_kv": 4, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    return T5EncoderModel(T5Config(**sizes)), T5EncoderModel


def bare(key: str) -> str:
    return key.removeprefix("text_model.")


ENCODERS: dict[str, tuple[Callable[[], tuple[Any, Any]], str, Callable[[str], str]]] = {
    "CLIP with prefix": (lambda: clip_family(0), "sd", lambda key: f"text_model.{bare(key)}"),
    "CLIP without": (lambda: clip_family(0), "sd", bare),
    "CLIP as a base model": (lambda: clip_family(0), "sd", lambda key: f"clip.{bare(key)}"),
    "projection with prefix": (lambda: clip_family(24), "xl", lambda key: key),
    "projection without": (lambda: clip_family(24), "xl", bare),
    "T5": (t5_family, "flux", lambda key: key),
    "T5 that names the encoder's table": (
        t5_family, "flux", lambda key: key.replace("shared.", "encoder.embed_tokens.")
    ),
    "T5 as a base model": (t5_family, "flux", lambda key: f"transformer.{key}"),
}  # fmt: skip


@pytest.fixture(scope="module")
def pipelines(saved: Path) -> dict[str, Path]:
    """A folder of each family, to take the layouts' own prefixes and aliases from."""
    torch.manual_seed(0)
    made = {name: saved.parent / name for name in ("xl", "flux")}
    families.save(FAMILIES["sdxl-turbo"][0](), made["xl"])
    families.save(families.flux(), made["flux"])
    return {"sd": saved, **made}


@pytest.mark.parametrize("case", ENCODERS)
def test_text_encoders_have_the_tensors_transformers_loads(
    case: str, pipelines: dict[str, Path], tmp_path: Path
) -> None:
    build, family, name = ENCODERS[case]
    model, stock = build()
    model.save_pretrained(tmp_path)
    rename(tmp_path / "model.safetensors", name)
    loaded = stock.from_pretrained(tmp_path).state_dict()
    component = {"sd": "text_encoder"}.get(family, "text_encoder_2")
    (plan,) = [p for p in layout_of(resolve(str(pipelines[family]))).components if p.name == component]
    ours = Weights(weight_files(tmp_path), plan.prefixes, plan.aliases)
    for key, tensor in loaded.items():
        assert np.array_equal(ours[key], tensor.numpy()), key
        assert torch.equal(tensor, model.state_dict()[key]), "else transformers made this one up"


@pytest.mark.parametrize("projection", [0, 24])
def test_what_is_published_is_named_as_all_versions_read_it(projection: int, tmp_path: Path) -> None:
    model, stock = clip_family(projection)
    model.save_pretrained(tmp_path)
    rename_text_encoder(tmp_path / "model.safetensors")
    assert {name.split(".")[0] for name in load_file(tmp_path / "model.safetensors")} <= {
        "text_model", "text_projection"
    }  # fmt: skip
    loaded, info = stock.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    for key, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], tensor), key


def test_tensors_that_are_missing_are_refused(saved: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(saved, tmp_path / "sd"))
    file = folder / "unet" / WEIGHTS
    save_file({name: t for name, t in load_file(file).items() if ".attn2.to_k." not in name}, file)
    with pytest.raises(WeightsError, match=r"unet: 4 of the architecture's \d+ tensors are in none of its files"):
        export(resolve(str(folder)), ExportSettings(8), tmp_path / "out", quiet=True)
    assert not (tmp_path / "out").exists()


def test_variations_of_a_pipeline_are_read_by_their_components(saved: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(saved, tmp_path / "sd"))
    rewrite(folder / "model_index.json", lambda i: {**i, "_class_name": "StableDiffusionImg2ImgPipeline"})
    assert layout_of(resolve(str(folder))).backbone == "unet"
    rewrite(folder / "unet/config.json", lambda c: {**c, "in_channels": 9})
    with pytest.raises(RecipeError, match="reads 9 channels, its autoencoder's latents have 4"):
        layout_of(resolve(str(folder)))


def test_a_network_alone_stands_in_its_base(saved: Path, tmp_path: Path) -> None:
    network = Path(shutil.copytree(saved / "unet", tmp_path / "Hyper-SD15-4step"))
    found = resolve(str(network), Overrides(base=str(saved)))
    assert (found.folder, found.part("unet"), found.part("vae")) == (saved, network, saved / "vae")
    assert (found.recipe.name, found.recipe.scheduler) == ("Hyper-SD15-4step", "TCDScheduler")
    with pytest.raises(RecipeError, match="text states of 32 values belongs to no known model: give --base"):
        resolve(str(network))


def test_a_whole_clip_stands_in_for_its_text_encoder(saved: Path, tmp_path: Path) -> None:
    """CLIPModel's file holds the text encoder's configuration under text_config."""
    from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModel

    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = CLIPTextModel.from_pretrained(saved / "text_encoder").config.to_dict()
    whole = CLIPModel(CLIPConfig(text_config=text, vision_config={**vision, "image_size": 8, "patch_size": 4}))
    whole.save_pretrained(tmp_path / "clip")
    theirs = CLIPTextModel.from_pretrained(tmp_path / "clip")
    (tmp_path / "sd").symlink_to(saved)
    spec = with_recipe(tmp_path / "sd", '[parts]\ntext_encoder = "clip"')
    found = CLIPTextConfig.from_dict({k: v for k, v in spec.config("text_encoder").items() if k != "_class_name"})
    assert found.to_diff_dict() == theirs.config.to_diff_dict()
    assert found.hidden_size == 32
    plan = layout_of(spec).components[0]
    weights = Weights(weight_files(plan.source), plan.prefixes)
    for key, tensor in theirs.state_dict().items():
        assert np.array_equal(weights[key], tensor.numpy()), key


@pytest.mark.parametrize("component", ["vae", "unet"])
def test_a_configuration_without_keys_gets_the_classes_defaults(component: str, saved: Path, tmp_path: Path) -> None:
    import diffusers

    folder = Path(shutil.copytree(saved, tmp_path / "sd"))
    spec = resolve(str(folder))
    (folder / component / "config.json").write_text("{}")
    with torch.device("meta"):
        expected = getattr(diffusers, spec.index[component][1])().config
    found = spec.config(component)
    assert found == {key: value for key, value in expected.items() if key in found} | {
        "_class_name": spec.index[component][1]
    }
    assert {key for key in expected if not key.startswith("_")} <= set(found)


@pytest.mark.parametrize(
    ("class_name", "config"), [("CLIPTextModel", "CLIPTextConfig"), ("T5EncoderModel", "T5Config")]
)
@pytest.mark.parametrize("said", [{}, {"feed_forward_proj": "gated-gelu", "num_heads": 4}, {"hidden_act": "gelu"}])
def test_text_configurations_are_those_transformers_reads(class_name: str, config: str, said: dict[str, Any]) -> None:
    import transformers

    stock = getattr(transformers, config)
    completed = with_defaults(class_name, said)
    assert stock.from_dict(completed).to_dict() == stock.from_dict(said).to_dict()
    assert completed["vocab_size"] == stock().vocab_size


def test_tiny_autoencoders_lack_what_their_class_derives(saved: Path, tmp_path: Path) -> None:
    tiny = families.tiny_vae()
    tiny.save_pretrained(tmp_path / "tiny")
    rewrite(tmp_path / "tiny/config.json", lambda c: {k: v for k, v in c.items() if k != "block_out_channels"})
    (tmp_path / "sd").symlink_to(saved)
    layout = layout_of(with_recipe(tmp_path / "sd", 'tiny_decoder = "tiny"'), Choices(decoder="tiny"))
    assert (layout.latents.scaling_factor, layout.latents.pixels_per_latent) == (1.0, 2)


def test_latents_with_a_mean_for_each_channel_are_refused(saved: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(saved, tmp_path / "sd"))
    rewrite(folder / "vae/config.json", lambda c: {**c, "latents_mean": [0.1] * 4, "latents_std": [1.0] * 4})
    with pytest.raises(RecipeError, match="sets latents_mean and latents_std") as error:
        export(resolve(str(folder)), ExportSettings(4), tmp_path / "out", quiet=True)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.glob("*out*")), "refused before anything is written"
    rewrite(folder / "vae/config.json", lambda c: {**c, "latents_mean": None, "latents_std": None})
    assert autoencoder_plans(resolve(str(folder)), Choices())


def test_flux_reads_as_many_tokens_as_its_pipeline(pipelines: dict[str, Path]) -> None:
    import inspect

    from diffusers import FluxPipeline

    spec = resolve(str(pipelines["flux"]))
    assert layout_of(spec).sequence_length == 256, "schnell's; a model that reads the guidance scale has the default"
    layout = layout_of(replace(spec, recipe=replace(spec.recipe, sequence_length=0)))
    assert layout.sequence_length == inspect.signature(FluxPipeline.__call__).parameters["max_sequence_length"].default
    assert layout_of(resolve(str(pipelines["sd"]))).sequence_length == 0


INDEX = "diffusion_pytorch_model.safetensors.index.fp16.json"
SHARDED = {
    "today": (INDEX, lambda name: name),
    "legacy": (
        "diffusion_pytorch_model.safetensors.fp16.index.json",
        lambda name: re.sub(r"\.fp16-(.*)\.safetensors", r"-\1.fp16.safetensors", name),
    ),
    "other": ("diffusion_pytorch_model.fp16.safetensors.index.json", lambda name: name),
}


@pytest.mark.parametrize("style", SHARDED)
@pytest.mark.parametrize("variant", ["fp16", ""])
def test_sharded_variants_open(style: str, variant: str, tmp_path: Path) -> None:
    vae = families.vae()
    vae.save_pretrained(tmp_path, variant="fp16", max_shard_size="100KB")
    index, name = SHARDED[style]
    for shard in tmp_path.glob("*.safetensors"):
        shard.rename(tmp_path / name(shard.name))
    rewrite(tmp_path / INDEX, lambda i: {**i, "weight_map": {k: name(v) for k, v in i["weight_map"].items()}})
    (tmp_path / INDEX).rename(tmp_path / index)
    files = weight_files(tmp_path, variant)
    assert len(files) > 1
    weights = Weights(files)
    for key, tensor in vae.state_dict().items():
        assert np.array_equal(weights[key], tensor.numpy())
    assert all(any(Path(file.name).match(pattern) for pattern in hub.patterns("fp16")) for file in files)
    assert not any(Path(file.name).match(pattern) for pattern in hub.patterns("") for file in files)
    (tmp_path / index).write_text("{}")
    with pytest.raises(WeightsError, match="no index of shards"):
        weight_files(tmp_path, variant)


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ("owner/name", HubId("owner/name")),
        ("owner/na.me@v1.0", HubId("owner/na.me", "v1.0")),
        ("owner/name@refs/pr/3/a/b c.safetensors", HubId("owner/name", "refs/pr/3", "a/b c.safetensors")),
        ("owner/name@0123abc/x.safetensors", HubId("owner/name", "0123abc", "x.safetensors")),
        ("owner/name/x.safetensors", HubId("owner/name", "", "x.safetensors")),
        ("loras/x.safetensors", None),
        ("../models/emoji", None),
        ("/models/emoji", None),
        ("emoji", None),
    ],
)
def test_hub_ids(text: str, known: HubId | None) -> None:
    assert hub_id(text) == known


@pytest.fixture
def fake_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, str, list[str]]]]:
    """`tmp_path`/hub/OWNER/NAME are repositories; what is asked for is copied to a cache. The list: what was asked."""
    import huggingface_hub
    from huggingface_hub.utils import filter_repo_objects

    asked: list[tuple[str, str, list[str]]] = []

    def snapshot_download(repository: str, revision: str, allow_patterns: list[str]) -> str:
        origin, cached = tmp_path / "hub" / repository, tmp_path / "cache" / f"{repository}@{revision}"
        names = [str(file.relative_to(origin)) for file in origin.rglob("*") if file.is_file()]
        taken = list(filter_repo_objects(names, allow_patterns=allow_patterns))
        asked.append((repository, revision, taken))
        for name in taken:
            (cached / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(origin / name, cached / name)
        return str(cached)

    def hf_hub_download(repository: str, file: str, revision: str) -> str:
        asked.append((repository, revision, [file]))
        return str(tmp_path / "hub" / repository / file)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hf_hub_download)
    hub.fetch.cache_clear()
    yield asked
    hub.fetch.cache_clear()


def repository(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text('{"_class_name": "StableDiffusionPipeline"}')


def fetched(asked: list[tuple[str, str, list[str]]]) -> set[str]:
    return {name for _, _, names in asked for name in names if name.endswith("safetensors")}


def test_each_repository_has_its_own_revision_and_files(
    tmp_path: Path, fake_hub: list[tuple[str, str, list[str]]], capsys: pytest.CaptureFixture[str]
) -> None:
    unet, model = "unet/diffusion_pytorch_model", "text_encoder/model"
    repository(
        tmp_path / "hub/maker/model", "unet/config.json", f"{unet}.safetensors", f"{unet}.fp16.safetensors",
        f"{unet}.non_ema.safetensors", "text_encoder/config.json", f"{model}.safetensors", "vae_1_0/config.json",
        "safety_checker/config.json", "safety_checker/model.fp16.safetensors", "vae_1_0/model.fp16.safetensors",
        "sd_v1-5.safetensors",
    )  # fmt: skip
    index = {"_class_name": "StableDiffusionPipeline", "scheduler": ["diffusers", "DDIMScheduler"]}
    index |= {name: ["a", "b"] for name in ("unet", "text_encoder", "safety_checker")}
    (tmp_path / "hub/maker/model/model_index.json").write_text(json.dumps(index))
    repository(tmp_path / "hub/maker/tiny", "config.json", WEIGHTS, "taesd_decoder.safetensors")
    repository(tmp_path / "hub/maker/loras", "few/steps.safetensors")
    lines = 'source = "maker/model"\nrevision = "abc"\nvariant = "fp16"\ntiny_decoder = "maker/tiny"\n'
    (tmp_path / "r.toml").write_text(f'{HEAD}{lines}lora = "maker/loras@v2/few/steps.safetensors"\n')
    spec = resolve(str(tmp_path / "r.toml"))
    assert fetched(fake_hub) == {f"{unet}.fp16.safetensors", f"{model}.safetensors"}
    assert {revision for _, revision, _ in fake_hub} == {"abc"}
    assert capsys.readouterr().err == "maker/model: no fp16 files of text_encoder, taking plain files\n"
    fake_hub.clear()
    tiny = spec.locate(spec.recipe.tiny_decoder)
    assert weight_files(tiny, "fp16") == [tiny / WEIGHTS]
    assert fetched(fake_hub) == {WEIGHTS}
    assert capsys.readouterr().err == "maker/tiny: no fp16 files of the model, taking plain files\n"
    assert {revision for _, revision, _ in fake_hub} == {"main"}
    spec.lora_file()
    assert fake_hub[-1] == ("maker/loras", "v2", ["few/steps.safetensors"])


def test_a_revision_is_named_once(tmp_path: Path, fake_hub: list[tuple[str, str, list[str]]]) -> None:
    (tmp_path / "r.toml").write_text(f'{HEAD}source = "maker/model@v1"\nrevision = "v2"\n')
    with pytest.raises(RecipeError, match="v1 and revision v2"):
        resolve(str(tmp_path / "r.toml"))
    repository(tmp_path / "hub/maker/model", "model_index.json")
    assert resolve("maker/model@v1").recipe.name == "model"
    assert {revision for _, revision, _ in fake_hub} == {"v1"}


def test_advice_fits_what_is_wrong(saved: Path, tmp_path: Path) -> None:
    def refused(lines: str) -> str:
        with pytest.raises(QSchedError) as error:
            export(with_recipe(tmp_path / "sd", lines), ExportSettings(4), tmp_path / "out", quiet=True)
        assert "\n" not in str(error.value)
        return str(error.value)

    shutil.copytree(saved, tmp_path / "sd")
    (tmp_path / "loras").mkdir()
    typo = refused('lora = "loras/typo.safetensors"')
    assert "loras/typo.safetensors does not exist" in typo
    assert "embedded" not in typo
    assert "name the safetensors file in it" in refused('lora = "loras"')
    assert "name the safetensors file in it" in refused('lora = "maker/lora"')
    (tmp_path / "sd/tokenizer/tokenizer.json").unlink()
    assert "holds no tokenizer" in refused(""), "transformers would make an empty one"
    (tmp_path / "sd/tokenizer/tokenizer.json").write_text("{")
    spec = resolve(str(tmp_path / "sd"))
    with pytest.raises(RecipeError, match="cannot be read as a CLIPTokenizer"):
        load_tokenizer(spec, "tokenizer", layout_of(spec))
    shutil.rmtree(tmp_path / "sd/tokenizer")
    assert "holds no tokenizer" in refused("")
    emoji = plain_recipe("emoji", "../models/emojis")
    with pytest.raises(RecipeError, match="is no hub id"):
        locate(emoji, emoji.source)
    shelf = next(TOKENIZER.parents[2].glob("export/emoji.toml"))
    recipe = read_recipe(shelf)
    assert locate(recipe, recipe.source) == TOKENIZER.parent
