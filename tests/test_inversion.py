"""Textual inversion: a learned word gives the ids, the table and the pictures that diffusers gives."""

from __future__ import annotations

import json
from pathlib import Path

import families
import numpy as np
import pytest
import torch
from qsched_runtime import Sampler
from safetensors.torch import save_file
from typer.testing import CliRunner

from qsched_edge.checkpoint.recipes import ModelSpec, Overrides, resolve
from qsched_edge.cli.app import app
from qsched_edge.errors import QSchedError
from qsched_edge.export.job import job_of
from qsched_edge.export.run import export
from qsched_edge.export.settings import ExportSettings

PROMPTS = ["a <cat-toy>, noto style", "sketchy dogs, a <CAT-TOY>"]
Words = dict[str, dict[str, torch.Tensor]]


def scheduler():  # type: ignore[no-untyped-def]
    from diffusers import EulerAncestralDiscreteScheduler

    return EulerAncestralDiscreteScheduler(**families.BETAS, timestep_spacing="trailing")


def rows(vectors: int, width: int) -> torch.Tensor:
    return torch.randn(vectors, width, generator=torch.Generator().manual_seed(vectors + width))


# diffusers' own form with a word of one vector; AUTOMATIC1111's with one of three, which the file's name is
ONE, THREE = {"<cat-toy>": rows(1, 32)[0]}, {"emb_params": rows(3, 32)}
BOTH = {"clip_l": rows(3, 32), "clip_g": rows(3, 48)}  # SDXL's
KINDS = {
    "sd": (families.stable_diffusion, {"learned_embeds": ONE, "sketchy": THREE}),
    "sdxl": (families.stable_diffusion_xl, {"learned_embeds": ONE, "sketchy": BOTH}),
}


@pytest.fixture(scope="module", params=["sd", pytest.param("sdxl", marks=pytest.mark.slow)])
def kind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    return taught(request.param, tmp_path_factory.mktemp(request.param))


def taught(name: str, place: Path):  # type: ignore[no-untyped-def]
    """(diffusers' pipeline with the words, the folder without them, the files)."""
    build, words = KINDS[name]
    torch.manual_seed(0)
    pipeline = build(scheduler())
    folder = families.save(pipeline, place / "mini")
    files = []
    for stem, tensors in words.items():
        save_file(tensors, place / f"{stem}.safetensors")
        files.append(place / f"{stem}.safetensors")
    pipeline = type(pipeline).from_pretrained(folder)
    load_words(pipeline, words)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline, folder, files


def load_words(pipeline, words: Words) -> None:  # type: ignore[no-untyped-def]
    """As diffusers' documentation loads each kind of file."""
    pipeline.load_textual_inversion(words["learned_embeds"])
    for key, tensor in words["sketchy"].items():
        second = "_2" if key == "clip_g" else ""
        encoder, tokenizer = (getattr(pipeline, f"{name}{second}") for name in ("text_encoder", "tokenizer"))
        pipeline.load_textual_inversion(tensor, token="sketchy", text_encoder=encoder, tokenizer=tokenizer)


def test_tables_of_tokens_are_those_of_diffusers(tmp_path: Path) -> None:
    """For both encoders of SDXL, before anything is traced."""
    pipeline, folder, files = taught("sdxl", tmp_path)
    job = job_of(resolve(str(folder), Overrides(textual_inversion=tuple(map(str, files)))), ExportSettings(32), True)
    for plan in job.layout.components[:2]:
        theirs = getattr(pipeline, plan.name).get_input_embeddings().weight.detach().numpy()
        weights, name = job.weights(plan), "embeddings.token_embedding.weight"
        assert weights.shape(name) == theirs.shape
        np.testing.assert_array_equal(weights[name], theirs)
        np.testing.assert_array_equal(weights.rows(name, len(theirs) - 2, len(theirs)), theirs[-2:])


@pytest.fixture(scope="module")
def bundle(kind) -> Path:  # type: ignore[no-untyped-def]
    _, folder, files = kind
    spec = resolve(str(folder), Overrides(textual_inversion=tuple(map(str, files))))
    return export(spec, ExportSettings(32), folder.with_name("w32"), quiet=True)


def test_prompts_have_the_ids_that_diffusers_gives_them(kind, bundle: Path) -> None:  # type: ignore[no-untyped-def]
    pipeline = kind[0]
    with Sampler.from_pretrained(bundle) as sampler:
        assert sampler.tokenizers.keys() == {name for name in pipeline.components if name.startswith("tokenizer")}
        for name, ours in sampler.tokenizers.items():
            theirs = getattr(pipeline, name)
            for prompt in (*PROMPTS, "sketchy", "sketchy_1 sketchy", "<cat-toy><cat-toy>", "nothing learned"):
                text = pipeline.maybe_convert_prompt(prompt, theirs)
                ids = theirs(text, padding="max_length", max_length=theirs.model_max_length, truncation=True).input_ids
                assert ours(prompt) == ids, (name, prompt)


def test_text_states_are_those_of_diffusers(kind, bundle: Path) -> None:  # type: ignore[no-untyped-def]
    """By far: the rows of the words are fifty times as long as those beside them."""
    pipeline = kind[0]
    with Sampler.from_pretrained(bundle) as sampler:
        for name, tokenizer in sampler.tokenizers.items():
            encoder = name.replace("tokenizer", "text_encoder")
            ids = [tokenizer(prompt) for prompt in (*PROMPTS, "a dog, noto style")]
            found = sampler.graphs[encoder]({"input_ids": np.array(ids)})["last_hidden_state"]
            with torch.no_grad():
                theirs = getattr(pipeline, encoder)(torch.tensor(ids)).last_hidden_state.numpy()
            np.testing.assert_allclose(found, theirs, atol=1e-4)
            assert np.abs(found[0] - found[2]).max() > 0.1


def test_pictures_are_those_of_diffusers(kind, bundle: Path) -> None:  # type: ignore[no-untyped-def]
    generator = torch.Generator("cpu").manual_seed(5)
    theirs = kind[0](PROMPTS, num_inference_steps=2, guidance_scale=0.0, generator=generator, output_type="np").images
    with Sampler.from_pretrained(bundle) as sampler:
        ours = sampler(PROMPTS, seed=5, num_inference_steps=2, guidance_scale=0.0).images
    difference = np.abs(ours - np.round(theirs * 255))
    assert difference.max() <= 2
    assert difference.mean() <= 0.1


def test_the_bundle_says_what_it_was_made_of(kind, bundle: Path) -> None:  # type: ignore[no-untyped-def]
    pipeline, _, files = kind
    raw = json.loads((bundle / "qsched.json").read_text())
    sources = [name for name in raw["provenance"]["sources"] if name.startswith("textual_inversion/")]
    assert [Path(name).name for name in sources] == [file.name for file in files]
    config = json.loads((bundle / "text_encoder/config.json").read_text())
    assert config["vocab_size"] == pipeline.text_encoder.get_input_embeddings().num_embeddings


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return families.save(families.stable_diffusion(scheduler()), tmp_path_factory.mktemp("plain") / "mini")


def refusal(plain: Path, name: str) -> str:
    with pytest.raises(QSchedError) as error:
        export(resolve(str(plain), Overrides(textual_inversion=(name,))), ExportSettings(4), plain / "out", quiet=True)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_files_that_cannot_be_learned_words_are_refused_in_one_line(plain: Path, tmp_path: Path) -> None:
    for name in ("cat.pt", "learned_embeds.bin"):
        (tmp_path / name).write_bytes(b"\x80\x04.")
        assert "is pickled, which can run code: give it as safetensors" in refusal(plain, str(tmp_path / name))
    assert "is pickled" in refusal(plain, str(tmp_path))  # a folder as diffusers saved it in 2022
    wide, two, none = (tmp_path / f"{name}.safetensors" for name in ("wide", "two", "none"))
    save_file({"<x>": torch.zeros(768)}, wide)
    assert "<x> [768] fits no row of a table of tokens here (text_encoder's has 32 numbers)" in refusal(
        plain, str(wide)
    )
    save_file({"<x>": torch.zeros(32), "<y>": torch.zeros(32)}, two)
    assert "has the keys <x>, <y>: a textual inversion has one word" in refusal(plain, str(two))
    assert "does not exist" in refusal(plain, str(none))
    (tmp_path / "not.safetensors").write_bytes(b"1234")
    assert "cannot be read as safetensors" in refusal(plain, str(tmp_path / "not.safetensors"))


def test_a_word_that_is_a_token_gets_another_name(plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "mine.safetensors"
    save_file({"emb_params": rows(2, 32)}, file)
    taken = next(word for word in families.clip_tokenizer().get_vocab() if word.isalpha())
    assert f"{taken!r} is a token of tokenizer already: give another word" in refusal(plain, f"{taken}={file}")
    specs: list[ModelSpec] = []
    monkeypatch.setattr("qsched_edge.export.run.export", lambda spec, *rest: specs.append(spec))
    monkeypatch.chdir(tmp_path)
    CliRunner().invoke(app, ["export", "-m", str(plain), "--textual-inversion", f"<mine>={file.name}"])
    (spec,) = specs
    assert spec.recipe.textual_inversion == (f"<mine>={file}",)
    tokens = job_of(spec, ExportSettings(4), True).tokenizers["tokenizer"].stock
    assert [tokens.convert_ids_to_tokens(len(tokens) - i) for i in (2, 1)] == ["<mine>", "<mine>_1"]


def test_families_without_textual_inversion_say_so(tmp_path: Path) -> None:
    save_file({"clip_l": rows(1, 32)}, tmp_path / "word.safetensors")
    folder = families.save(families.flux(), tmp_path / "flux")
    assert "FluxPipeline reads none, StableDiffusionPipeline" in refusal(folder, str(tmp_path / "word.safetensors"))
