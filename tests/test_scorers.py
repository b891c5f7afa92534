"""Models of scorers and judges: how they are named, where they come from, and what is said when they are not there."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, TOKENIZER, command_line
from hub_server import LocalHub, ask_here, serving

from qsched_edge.errors import MetricError
from qsched_edge.jaq.clip import ClipModel
from qsched_edge.jaq.fetching import model_file, model_folder
from qsched_edge.jaq.judge import Judge
from qsched_edge.jaq.scored import term_files
from qsched_edge.jaq.scorers import DEFAULT_SCORER, at_hand, metric_of, models_of, usable, with_defaults
from qsched_edge.jaq.settings import TermSettings
from qsched_edge.jaq.terms import QUALITY, TEXT_IMAGE, Seen

PROMPTS = ("a red apple, noto style", "a cat face, fluent style")
PICK = "maker/pick-score"


@pytest.fixture(scope="module")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random CLIPModel as transformers saves it."""
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(0)
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**small, "vocab_size": 49408, "max_position_embeddings": 77, "eos_token_id": 49407, "bos_token_id": 49406}
    vision = {**small, "image_size": 32, "patch_size": 8}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)
    folder = tmp_path_factory.mktemp("clip") / "tiny"
    CLIPModel(config).save_pretrained(folder)
    return folder


@pytest.fixture
def hub(tmp_path: Path, tiny_clip: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    """A hub with the default scorer (the embedded model's in its place) and another CLIP, and an empty cache."""
    repositories = tmp_path / "hub"
    shutil.copytree(ROOT / "models/emoji-scorer", repositories / DEFAULT_SCORER)
    shutil.copytree(tiny_clip, repositories / PICK)
    (repositories / DEFAULT_SCORER / "open_clip_pytorch_model.bin").write_bytes(b"pickled" * 1000)
    with serving(repositories) as found:
        ask_here(found, tmp_path / "cache", monkeypatch)
        yield found


@pytest.mark.parametrize(
    ("registry", "text", "expected"),
    [
        (TEXT_IMAGE, "clip", ("clip", "")),
        (TEXT_IMAGE, "yuvalkirstain/PickScore_v1", ("clip", "yuvalkirstain/PickScore_v1")),
        (TEXT_IMAGE, "hps:weights.pt", ("hps", "weights.pt")),
        (TEXT_IMAGE, "some/HPS_v2.1_compressed.pt", ("hps", "some/HPS_v2.1_compressed.pt")),
        (QUALITY, "pyiqa:clipiqa+", ("pyiqa", "clipiqa+")),
        (QUALITY, "hps", ("hps", "")),
        (QUALITY, "clip-iqa:maker/model@v1", ("clip-iqa", "maker/model@v1")),
        (QUALITY, str(ROOT / "models"), ("clip-iqa", str(ROOT / "models"))),
    ],
)
def test_a_metric_is_a_name_a_model_or_both(registry: dict[str, str], text: str, expected: tuple[str, str]) -> None:
    assert metric_of(registry, text) == expected


def test_every_family_has_metrics_without_being_asked() -> None:
    plain = with_defaults(TermSettings(text_image="", quality=""), "StableDiffusionPipeline")
    assert list(models_of(plain)) == [("clip", DEFAULT_SCORER), ("clip-iqa", DEFAULT_SCORER)]
    large = with_defaults(TermSettings(text_image="", quality=""), "StableDiffusionXLPipeline")
    assert list(models_of(large)) == [("clip", DEFAULT_SCORER), ("hps", "xswu/HPSv2/HPS_v2.1_compressed.pt")]
    own = TermSettings("mine", text_image="hps", quality="pyiqa:musiq")
    assert with_defaults(own, "FluxPipeline") == own


def test_a_model_is_fetched_once_and_said_beforehand(hub: LocalHub, capsys: pytest.CaptureFixture[str]) -> None:
    folder = model_folder(DEFAULT_SCORER, offline=False)
    said = capsys.readouterr().err.splitlines()[0]
    total = sum(f.stat().st_size for f in (ROOT / "models/emoji-scorer").iterdir())
    assert said.startswith(f"fetching {DEFAULT_SCORER}: {total / 1e6:,.0f} MB, kept in ")
    assert sorted(p.name for p in folder.iterdir()) == [
        "open_clip_config.json", "open_clip_model.safetensors", "tokenizer.json",
    ]  # fmt: skip
    taken = len(hub.fetched)
    assert model_folder(DEFAULT_SCORER, offline=False) == folder == model_folder(DEFAULT_SCORER, offline=True)
    assert len(hub.fetched) == taken
    assert capsys.readouterr().err == ""


def test_offline_nothing_is_asked_for_and_the_line_says_what_to_fetch(hub: LocalHub) -> None:
    with pytest.raises(MetricError) as error:
        at_hand(with_defaults(TermSettings(), ""), offline=True)
    assert str(error.value) == (
        f"{DEFAULT_SCORER} is not in the hub's cache, and nothing is fetched offline: hf download {DEFAULT_SCORER}"
    )
    with pytest.raises(MetricError, match=r"hf download xswu/HPSv2 HPS_v2\.1_compressed\.pt"):
        at_hand(TermSettings("", text_image="hps", quality=""), offline=True)
    assert hub.fetched == []


def test_what_the_hub_lacks_is_one_line(hub: LocalHub) -> None:
    with pytest.raises(MetricError, match=r"nobody/nothing cannot be fetched from the hub \("):
        model_folder("nobody/nothing", offline=False)
    with pytest.raises(MetricError, match=r"has no file none\.pt"):
        model_file(f"{PICK}/none.pt", offline=False)
    with pytest.raises(MetricError, match="is no path here and no hub id"):
        model_folder("nothing", offline=False)
    (hub.folder / "maker/empty").mkdir()
    (hub.folder / "maker/empty/README.md").write_text("nothing here")
    with pytest.raises(MetricError, match=r"has neither open_clip_config\.json and open_clip_model\.safetensors nor"):
        model_folder("maker/empty", offline=False)
    for line in ("nobody/nothing", "maker/empty"):
        with pytest.raises(MetricError) as error:
            model_folder(line, offline=False)
        assert "\n" not in str(error.value)


def test_a_loss_that_compares_needs_no_scorer(hub: LocalHub) -> None:
    terms = with_defaults(TermSettings(), "")
    with pytest.raises(MetricError, match="without a scorer, --loss reference fits to the 32-bit bundle's pictures"):
        usable(terms, offline=True, needed=True)
    bare = usable(terms, offline=True, needed=False)
    assert set(Judge(bare).measures) == {"reference"}
    assert term_files(bare) == frozenset()


def test_a_clip_of_transformers_scores_as_transformers_itself_does(hub: LocalHub, tiny_clip: Path) -> None:
    from transformers import CLIPModel, CLIPTokenizer

    terms = at_hand(TermSettings(DEFAULT_SCORER, text_image=PICK), offline=False)
    assert {Path(f).name for f in term_files(terms)} != set()
    assert len(term_files(terms)) == 2
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    found = Judge(terms).terms(Seen(images, PROMPTS, torch.zeros(2, 4, 8, 8)))
    model, tokenizer = CLIPModel.from_pretrained(tiny_clip), CLIPTokenizer.from_pretrained(TOKENIZER)
    assert tokenizer is not None
    own = ClipModel.of_folder(tiny_clip)
    ids = torch.tensor([own.tokenize(prompt) for prompt in PROMPTS])
    mean, std = (
        torch.tensor(v).reshape(1, 3, 1, 1)
        for v in ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
    )
    with torch.no_grad():
        scores = model(input_ids=ids, pixel_values=(images - mean) / std)
    expected = scores.logits_per_image.diagonal() / model.logit_scale.exp()
    np.testing.assert_allclose(found["text_image"], expected.detach(), atol=1e-5)
    assert found["quality"].shape == (2,)  # by the default scorer


def test_folders_that_hold_no_model_say_what_is_missing(tmp_path: Path, tiny_clip: Path) -> None:
    with pytest.raises(MetricError, match=r"has no open_clip_config\.json"):
        model_folder(str(tmp_path), offline=True)
    with pytest.raises(MetricError, match="is a file: give the folder"):
        model_folder(str(tiny_clip / "config.json"), offline=True)
    other = Path(shutil.copytree(tiny_clip, tmp_path / "other"))
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "model_type": "bert"}))
    with pytest.raises(MetricError, match="holds a 'bert' of transformers"):
        ClipModel.of_folder(other)


@pytest.fixture
def bare(recipe: Path) -> Path:
    """A recipe that names no judge of any kind."""
    path = recipe.with_name("unjudged.toml")
    lines = recipe.read_text().splitlines()
    path.write_text("\n".join(line for line in lines if not line.startswith(("scorer", "quality", "evaluator"))))
    return path


@pytest.fixture
def ask(hub: LocalHub, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, **hub.environment(tmp_path / "home")}
        return subprocess.run(
            command_line(*arguments), capture_output=True, text=True, check=False, cwd=ROOT, env=environment
        )

    return run


def test_calibrate_fetches_its_scorer_or_says_what_can_be_done_without(
    hub: LocalHub, bare: Path, bundles: dict[int, Path], tmp_path: Path,
    ask: Callable[..., subprocess.CompletedProcess[str]],
) -> None:  # fmt: skip
    folder = Path(shutil.copytree(bundles[4], tmp_path / "bundle"))
    few = ("-m", bare, "--fit-prompts", 2, "--heldout-prompts", 2, "--budget", "16", "--quiet")
    refused = ask("calibrate", folder, *few, "--offline")
    assert refused.returncode == 1
    (line,) = refused.stderr.splitlines()
    assert f"hf download {DEFAULT_SCORER}; without a scorer, --loss reference" in line
    assert hub.fetched == []
    compared = ask("calibrate", folder, *few, "--offline", "--loss", "reference", "--reference", bundles[32], "--json")
    assert compared.returncode == 0, compared.stderr
    assert json.loads(compared.stdout)["loss"]["name"] == "reference"
    done = ask("calibrate", folder, *few, "--json")
    assert done.returncode == 0, done.stderr
    assert f"fetching {DEFAULT_SCORER}: " in done.stderr
    record = json.loads(done.stdout)
    assert record["metrics"] == {"scorer": DEFAULT_SCORER, "text_image": "clip", "quality": "clip-iqa"}
    assert len(record["scorer_sha256"]) == 64
