"""tests/vectors, which every runtime reproduces: the Python runtime here, the web runtime by `make test-web`."""

import gzip
import hashlib
import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from qsched_runtime.manifest import TokenizerSpec, table_of
from qsched_runtime.noise import TorchNoise
from qsched_runtime.schedule import COLUMNS, Coefficients, ScheduleTable
from qsched_runtime.sources import guidance_embedding
from qsched_runtime.tokenize import load_tokenizer

VECTORS = Path(__file__).parent / "vectors"


def read(name: str) -> Any:
    return json.loads((VECTORS / name).read_text("utf-8"))


def sha256(values: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(values, "<f4").tobytes()).hexdigest()


@pytest.mark.parametrize("vector", read("noise.json"), ids=lambda v: v["seed"])
def test_noise(vector: dict[str, Any]) -> None:
    stream = TorchNoise(int(vector["seed"]))
    values = np.concatenate([stream.randn((n,)) for n in vector["counts"]])
    assert sha256(values) == vector["sha256"]


@pytest.mark.parametrize("vector", read("tokenizers.json"), ids=lambda v: v["name"])
def test_token_ids(vector: dict[str, Any], tmp_path: Path) -> None:
    file = ROOT / vector["tokenizer"]
    data = json.loads(gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes())
    data["added_tokens"] = vector.get("added_tokens", data["added_tokens"])
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    tokenizer = load_tokenizer(tmp_path / "tokenizer.json", TokenizerSpec(**vector["spec"]))
    for text, ids in vector["ids"]:
        assert tokenizer(text) == ids


def test_steps_in_float32() -> None:
    vector = read("schedule.json")
    raw, shape = vector["schedule"], tuple(vector["shape"])
    table = ScheduleTable(**{name: raw[name] for name in (*COLUMNS, "init_noise_sigma")})
    folded = table.folded(Coefficients(raw["c_x"], raw["c_eps"], raw["bias"]))
    x, e, z = (TorchNoise(seed).randn(shape) for seed in (1, 2, 3))
    assert sha256(x * np.float32(table.init_noise_sigma)) == vector["start"]
    for i, expected in enumerate(vector["steps"]):
        drawn = z if folded.draws_noise(i) else None
        after = folded.step(x, e, drawn, i)
        assert sha256(folded.scale_model_input(x, i)) == expected["model_input"]
        assert sha256(folded.noised(x, z, i)) == expected["noised"]
        assert sha256(after) == expected["step"]
        assert sha256(folded.estimate(x, drawn, after, i)) == expected["estimate"]


@pytest.mark.parametrize("latents", [256, 4096, 10_000])
def test_a_schedule_that_shifts_with_the_size(latents: int) -> None:
    vector = read("shift.json")
    found = table_of(vector["schedule"]).at(latents)
    for name in COLUMNS:
        np.testing.assert_allclose(getattr(found, name), vector["at"][str(latents)][name], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("vector", read("guidance_embedding.json"), ids=lambda v: str(v["width"]))
def test_guidance_embedding(vector: dict[str, Any]) -> None:
    found = guidance_embedding(vector["guidance_scale"], vector["width"])[0]
    np.testing.assert_allclose(found, vector["values"], atol=1e-3)


def test_the_web_runtime_has_the_same_schema_and_operators() -> None:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "runtimes/web/generate.py")
    assert spec
    assert spec.loader
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    assert generate.DATA.read_text("utf-8") == generate.data_module(), "run: python runtimes/web/generate.py"


def test_the_web_runtime_has_the_version_of_this_project() -> None:
    import qsched_runtime

    package = json.loads((ROOT / "runtimes/web/package.json").read_text("utf-8"))
    assert package["version"] == qsched_runtime.__version__
