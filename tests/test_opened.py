"""An opened bundle finds its own recipe, wherever it was moved, and never another of the same name."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qsched_edge.bundle.opened import open_bundle
from qsched_edge.bundle.sources import recipe_from_json, recipe_to_json
from qsched_edge.checkpoint.recipes import Recipe, read_recipe, recipe_names, resolve
from qsched_edge.errors import BundleError, RecipeError
from qsched_edge.export.run import export
from qsched_edge.export.settings import ExportSettings

TEXT = st.text(max_size=8)
WIDTHS = st.dictionaries(TEXT, st.sampled_from([2, 3, 4, 8, 16, 32]), max_size=3)
NUMBERS = st.floats(0, 100)
RECIPES = st.builds(
    Recipe, name=TEXT, title=TEXT, source=TEXT, license=TEXT, guidance=NUMBERS, eta=NUMBERS, lora_scale=NUMBERS,
    steps=st.lists(st.integers(1, 50), min_size=1, max_size=4).map(tuple), parts=st.dictionaries(TEXT, TEXT),
    height=st.integers(0, 2048), scheduler_settings=st.dictionaries(TEXT, st.booleans() | NUMBERS | TEXT),
    symmetric=st.booleans(), precision=WIDTHS, keep=WIDTHS, layers=WIDTHS, quality_prompts=st.tuples(TEXT, TEXT),
    folder=st.sampled_from([Path(), Path("/somewhere"), *(path.parent for path in recipe_names().values())]),
)  # fmt: skip


@given(RECIPES)
def test_a_recipe_survives_json(recipe: Recipe) -> None:
    assert recipe_from_json(json.loads(json.dumps(recipe_to_json(recipe))), Path("qsched.json")) == recipe


@pytest.mark.parametrize("name", recipe_names())
def test_every_shipped_recipe_survives_json(name: str) -> None:
    recipe = read_recipe(recipe_names()[name], name)
    stored = json.loads(json.dumps(recipe_to_json(recipe)))
    assert stored["folder"] == "shelf"
    assert recipe_from_json(stored, Path("qsched.json")) == recipe


def edited(bundle: Path, folder: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """A copy of qsched.json alone, changed: all that opening reads."""
    folder.mkdir()
    raw = json.loads((bundle / "qsched.json").read_text())
    change(raw)
    (folder / "qsched.json").write_text(json.dumps(raw))
    return folder


def test_a_moved_bundle_knows_its_model(bundles: dict[int, Path], recipe: Path, tmp_path: Path) -> None:
    opened = open_bundle(edited(bundles[4], tmp_path / "moved", lambda raw: None))
    spec = opened.model()
    assert spec == resolve(str(recipe))
    opened.check_sources(spec)
    assert (opened.provenance.bits, opened.provenance.method, opened.steps()) == (4, "rtn", 4)
    assert opened.calibrations == {}
    with pytest.raises(BundleError, match="no schedule for 9 steps"):
        opened.steps(9)


def test_a_folder_named_like_a_shipped_recipe_is_not_taken_for_it(miniature: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(miniature, tmp_path / "sdxl-turbo"))
    bundle = export(resolve(str(folder)), ExportSettings(8), tmp_path / "bundle", quiet=True)
    spec = open_bundle(bundle).model()
    assert (spec.folder, spec.recipe) == (folder, resolve(str(folder)).recipe)
    assert spec.recipe.source == str(folder)


def test_a_bundle_without_a_recipe_opens_and_says_so_when_asked(
    bundles: dict[int, Path], recipe: Path, tmp_path: Path
) -> None:
    opened = open_bundle(edited(bundles[4], tmp_path / "old", lambda raw: raw.pop("recipe")))
    assert opened.uncalibrated() == open_bundle(bundles[4]).uncalibrated()
    with pytest.raises(BundleError, match="export it again, or give -m"):
        opened.model()
    assert opened.model(str(recipe)).recipe.name == "mini"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: raw["recipe"].update(colour="red"), "unknown key 'colour'"),
        (lambda raw: raw["recipe"].update(steps=[0]), "steps"),
        (lambda raw: raw["recipe"].pop("source"), "source"),
    ],
)
def test_a_malformed_recipe_is_named(
    change: Callable[[dict[str, Any]], Any], message: str, bundles: dict[int, Path], tmp_path: Path
) -> None:
    with pytest.raises(BundleError, match=message):
        open_bundle(edited(bundles[4], tmp_path / "b", change)).model()


def test_malformed_provenance_is_refused(bundles: dict[int, Path], tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="provenance"):
        open_bundle(edited(bundles[4], tmp_path / "b", lambda raw: raw["provenance"].pop("bits")))


def test_a_checkpoint_that_is_gone_or_another_is_refused(
    bundles: dict[int, Path], miniature: Path, tmp_path: Path
) -> None:
    gone = edited(bundles[4], tmp_path / "gone", lambda raw: raw["recipe"].update(source="no/such/place"))
    with pytest.raises(RecipeError, match=r"no/such/place.*give -m"):
        open_bundle(gone).model()
    other = Path(shutil.copytree(miniature, tmp_path / "other"))
    weights = other / "unet/diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes() + b"\0")
    opened = open_bundle(bundles[4])
    with pytest.raises(BundleError, match="was not made of the weights"):
        opened.check_sources(resolve(str(other)))
