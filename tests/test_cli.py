"""The command line: one line per error, exit codes, interruption by a real signal."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, cli, command_line

from qsched_edge.calibrate.registries import SEARCHES
from qsched_edge.calibrate.settings import CalibrationSettings


def fails(*arguments: object) -> str:
    done = cli(*arguments)
    assert done.returncode == 1, (done.stdout, done.stderr)
    assert done.stdout == ""
    (line,) = [line for line in done.stderr.splitlines() if not line.endswith(" ...")]  # what a slow machine is doing
    assert line.startswith("error: ")
    return line


def test_wrong_models_and_bits_are_one_line(tmp_path: Path) -> None:
    assert "did you mean 'emoji'" in fails("export", "-m", "emogi", "-o", tmp_path / "x")
    assert "weight_bits 5" in fails("export", "-m", "emoji", "--bits", 5, "-o", tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_targets_that_contradict_each_other_are_one_line(recipe: Path, tmp_path: Path) -> None:
    both = ("--target-size", "1M", "--target-ratio", 2)
    assert "exclude each other" in fails("export", "-m", recipe, *both, "-o", tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["run", "calibrate", "evaluate", "verify"])
def test_a_missing_bundle_is_one_line(command: str, tmp_path: Path) -> None:
    extra = {"run": ("-p", "x", "-o", tmp_path / "a.png"), "evaluate": ("-o", tmp_path / "r")}.get(command, ())
    assert "the folder does not exist" in fails(command, tmp_path / "nowhere", *extra)
    assert list(tmp_path.iterdir()) == []


def test_run_refuses_damage_and_existing_output(bundles: dict[int, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bundles[4], tmp_path / "bundle"))
    picture = tmp_path / "a.png"
    picture.write_bytes(b"mine")
    assert "--force" in fails("run", folder, "-p", "x", "-o", picture)
    data = folder / "unet/model.onnx_data"
    data.write_bytes(data.read_bytes()[:-1] + b"\x7f")
    assert "SHA-256" in fails("run", folder, "-p", "x", "-o", tmp_path / "b.png")
    assert picture.read_bytes() == b"mine"
    assert not (tmp_path / "b.png").exists()


def test_run_writes_one_picture_for_each_prompt(bundles: dict[int, Path], tmp_path: Path) -> None:
    done = cli("run", bundles[4], "-p", "a red apple", "-p", "a cat", "--seed", 3, "-o", tmp_path / "a.png")
    assert done.stdout.split() == [str(tmp_path / "a-0.png"), str(tmp_path / "a-1.png")]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a-0.png", "a-1.png"]


def test_bench_times_each_network_and_says_what_it_takes(bundles: dict[int, Path]) -> None:
    done = cli("bench", bundles[4], "--repeats", 2, "--steps", 2, "--height", 32, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["size"], found["steps"], found["memory"]) == ([32, 16], 2, "auto")
    assert found["bytes"] == sum(f["bytes"] for f in json.loads((bundles[4] / "qsched.json").read_text())["files"])
    assert list(found["networks"]) == ["text_encoder", "unet", "vae_decoder", "sampler"]
    assert all(0 < s["fastest"] <= s["median"] <= s["slowest"] for s in found["networks"].values())
    assert found["networks"]["unet"]["fastest"] < found["picture"]["slowest"]
    assert found["peak"] > 10**7
    assert found["load"] > 0


def test_run_tells_the_seed_it_drew_and_draws_it_again(bundles: dict[int, Path], tmp_path: Path) -> None:
    many = ("run", bundles[4], "-p", "a red apple", "--num-images", 2, "--json")
    first = json.loads(cli(*many, "-o", tmp_path / "a.png").stdout)
    assert first["pictures"] == [str(tmp_path / "a-0.png"), str(tmp_path / "a-1.png")]
    done = cli(*many, "-o", tmp_path / "b.png", "--seed", first["seed"])
    assert json.loads(done.stdout)["seed"] == first["seed"]
    assert f"seed {first['seed']}: 2 pictures in " in done.stderr
    assert (tmp_path / "a-1.png").read_bytes() == (tmp_path / "b-1.png").read_bytes()


def test_run_refuses_names_it_cannot_write_before_it_opens_the_bundle(tmp_path: Path) -> None:
    nowhere = ("run", tmp_path / "nowhere", "-p", "x", "-o")
    assert "does not exist: make it, or choose another output" in fails(*nowhere, tmp_path / "no/a.png")
    assert "has no suffix: name a picture, such as a.png" in fails(*nowhere, tmp_path / "a")
    assert "cannot be written as '.xyz': use .png, .jpg or .webp" in fails(*nowhere, tmp_path / "a.xyz")
    assert "is too long: use 246 bytes at most" in fails(*nowhere, tmp_path / f"{'a' * 250}.png")
    (tmp_path / "d.png").mkdir()
    assert "is a folder: name a picture in it" in fails(*nowhere, tmp_path / "d.png")
    assert "num_images 0 is out of range" in fails(*nowhere, tmp_path / "a.png", "--num-images", 0)
    assert "no picture that can be read" in fails(*nowhere, tmp_path / "a.png", "--image", __file__)
    assert "give --image, or leave it out" in fails(*nowhere, tmp_path / "a.png", "--strength", 0.5)


def test_run_starts_from_a_picture_of_any_size(recipe: Path, bundles: dict[int, Path], tmp_path: Path) -> None:
    from PIL import Image
    from qsched_runtime import Sampler

    from qsched_edge.checkpoint.recipes import resolve
    from qsched_edge.choices import Choices
    from qsched_edge.export.run import export
    from qsched_edge.export.settings import ExportSettings

    start = np.random.default_rng(0).integers(0, 256, size=(16, 24, 3), dtype=np.uint8)
    Image.fromarray(start).save(tmp_path / "start.png")
    asked = ("-p", "a red apple", "--image", tmp_path / "start.png", "-o", tmp_path / "a.png", "--seed", 3)
    assert "has no VAE encoder; export it with --encoder" in fails("run", bundles[4], *asked)
    settings = ExportSettings(32, choices=Choices(encoder=True))
    folder = export(resolve(str(recipe)), settings, tmp_path / "bundle", quiet=True)
    done = cli("run", folder, *asked, "--strength", 0.5)
    assert done.returncode == 0, done.stderr
    expected = Sampler.from_pretrained(folder)("a red apple", seed=3, image=start, strength=0.5).images[0]
    with Image.open(tmp_path / "a.png") as image:
        assert (np.asarray(image) == expected).all()
    done = cli("run", folder, *asked, "--height", 32, "--width", 16, "--force", "--json")
    assert [json.loads(done.stdout)[side] for side in ("height", "width")] == [32, 16]
    assert "strength 0.1 leaves no step of 4" in fails("run", folder, *asked, "--strength", 0.1, "--force")


def test_run_warns_of_prompts_that_are_cut(bundles: dict[int, Path], tmp_path: Path) -> None:
    done = cli("run", bundles[4], "-p", "apple " * 99, "-o", tmp_path / "a.png", "--device", "cpu")
    assert done.returncode == 0
    assert "warning: tokenizer leaves out the last " in done.stderr
    assert "tokens of the prompt 'apple apple" in done.stderr


@pytest.mark.parametrize(
    "model", ["sd-turbo", "stabilityai/sd-turbo", "stabilityai/sd-turbo@b261bac6fd2cf515557d5d0707481eafa0485ec2"]
)
def test_a_hub_out_of_reach_is_one_line(model: str, tmp_path: Path) -> None:
    nowhere = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-m", "qsched_edge", "export", "-m", model, "-o", str(tmp_path / "x")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=nowhere)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: stabilityai/sd-turbo@")
    assert "cannot be fetched from the hub and is not in its cache" in line
    assert not (tmp_path / "x").exists()


def test_what_nobody_foresaw_is_one_printable_line() -> None:
    from qsched_edge.cli.app import one_line, text_of

    line = one_line(text_of(RuntimeError("a\x1b[31mb\nc\0" + "x" * 9_000)))
    assert line.startswith("unexpected RuntimeError: a [31mb c xxx")
    assert len(line) == 600
    assert "--debug before the command" in text_of(KeyError("x"))


def test_version_short_help_and_completion() -> None:
    from qsched_edge import __version__

    assert cli("--version").stdout == f"qsched-edge {__version__}\n"
    assert "--num-images" in cli("run", "-h").stdout
    assert "completion" in cli("--show-completion", "bash").stdout


def test_what_takes_longer_says_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    from qsched_edge.work.progress import saying

    for quiet, seconds in ((False, 0.3), (True, 0.3), (False, 0.0)):
        with saying(f"judging {quiet} {seconds}", quiet, patience=0.05):
            time.sleep(seconds)
    assert capsys.readouterr().err == "judging False 0.3 ...\n"


def test_empty_prompt_file_is_one_line(bundles: dict[int, Path], recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("")
    line = fails("calibrate", bundles[4], "--model", recipe, "--prompts", tmp_path / "empty.txt")
    assert "has no prompts" in line


def test_recipes_of_another_type_are_one_line(recipe: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.toml"
    bad.write_text(recipe.read_text().replace("steps = [4, 2]", "steps = 4"))
    assert "bad.toml: steps = 4: Input should be a valid array" in fails("export", "-m", bad, "-o", tmp_path / "x")
    assert list(tmp_path.iterdir()) == [bad]


def test_text_that_is_no_utf8_is_one_line(bundles: dict[int, Path], recipe: Path, tmp_path: Path) -> None:
    argument = os.fsdecode(b"a caf\xe9")  # Latin-1, as another terminal may send it
    assert "prompt 'a caf\\udce9' is not UTF-8" in fails("run", bundles[4], "-p", argument, "-o", tmp_path / "a.png")
    assert "is not UTF-8" in fails(
        "run", bundles[4], "-p", "x", "--negative-prompt", argument, "-o", tmp_path / "a.png"
    )
    prompts = tmp_path / "prompts.txt"
    prompts.write_bytes(b"a caf\xe9\n")
    assert "is not UTF-8 text (byte 5)" in fails("calibrate", bundles[4], "-m", recipe, "--prompts", prompts)
    observed = ("--method", "gptq", "--calib-prompts", prompts, "-o", tmp_path / "x")
    assert "is not UTF-8 text (byte 5)" in fails("export", "-m", recipe, *observed)
    assert list(tmp_path.iterdir()) == [prompts]


def test_usage_errors_exit_with_2() -> None:
    for arguments in (("run",), ("export", "-m", "emoji", "--method", "gptx"), ("calibrate", "x", "--search", "gird")):
        done = cli(*arguments)
        assert done.returncode == 2
        assert "Usage" in done.stderr
    assert "did you mean 'grid'?" in done.stderr


def test_help_lists_choices_and_every_default_of_the_settings() -> None:
    text = " ".join(cli("calibrate", "--help").stdout.split())
    assert f"[{'|'.join((*SEARCHES, 'auto', 'all'))}]" in text
    assert "[cpu|cuda]" in text
    for name in ("points", "iterations", "fit_prompts", "heldout_prompts", "k"):
        described = text.partition(f"--{name.replace('_', '-')} ")[2].partition(" --")[0]
        assert f"[default: {getattr(CalibrationSettings(), name)}]" in described


def test_debug_shows_the_traceback() -> None:
    done = cli("--debug", "verify", "nowhere")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_verify_and_models_print_results_on_stdout(bundles: dict[int, Path]) -> None:
    assert "all as the manifest says" in cli("verify", bundles[4]).stdout
    found = json.loads(cli("verify", bundles[4], "--json").stdout)
    assert (found["sound"], found["steps"], found["calibrated"]) == (True, list(range(1, 9)), [])
    assert "emoji" in cli("models").stdout


def test_a_full_disk_is_one_line_and_nothing_looks_whole(recipe: Path, tmp_path: Path) -> None:
    def no_room() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    command = command_line("export", "-m", recipe, "-o", tmp_path / "out", "--quiet")
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, preexec_fn=no_room)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "the same command goes on from here" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["export", "calibrate", "evaluate"])
def test_ctrl_c_leaves_nothing_half_and_the_same_command_finishes(
    command: str, bundles: dict[int, Path], recipe: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(bundles[4], tmp_path / "bundle"))
    before = (folder / "qsched.json").read_bytes()
    arguments = {
        "export": ("export", "-m", recipe, "--bits", 8, "-o", tmp_path / "out"),
        "calibrate": (
            "calibrate",
            folder,
            "-m",
            recipe,
            "--fit-prompts",
            4,
            "--heldout-prompts",
            4,
            "--points",
            3,
            "--search",
            "grid",
        ),
        "evaluate": (
            "evaluate",
            folder,
            "-o",
            tmp_path / "out",
            "-m",
            recipe,
            "--reference",
            bundles[32],
            "--count",
            6,
            "--seeds",
            1,
        ),
    }[command]
    trace = {
        "export": tmp_path / ".out.partial/text_encoder",
        "calibrate": tmp_path / ".bundle.calibration/journal.jsonl",
        "evaluate": tmp_path / ".out.partial/stage.json",
    }[command]
    process = subprocess.Popen(
        command_line(*arguments, "--quiet"),
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    deadline = time.monotonic() + 120
    while not trace.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 130, stderr
    assert stderr.splitlines()[-1] == "interrupted: the same command goes on from here"
    assert not (tmp_path / "out").exists()
    assert (folder / "qsched.json").read_bytes() == before
    done = cli(*arguments, "--quiet")
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.glob(".*"))


def test_a_bundle_without_prompts_is_told_the_commands_own_option(bundles: dict[int, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bundles[4], tmp_path / "bundle"))
    raw = json.loads((folder / "qsched.json").read_text())
    for name in ("prompts", "heldout"):
        raw["recipe"].pop(name)
    (folder / "qsched.json").write_text(json.dumps(raw))
    assert "names no heldout: give --prompts" in fails("evaluate", folder, "-o", tmp_path / "report")
    assert "names no prompts: give --prompts" in fails("calibrate", folder)
