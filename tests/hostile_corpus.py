"""Bundles made to harm, built from a good one: `corpus()` yields some eight hundred, by class and name.

Each is a change to a copy of a good bundle's folder, after which opening or drawing it must be one BundleError.
"""

from __future__ import annotations

import json
import os
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hostile import MANIFESTS, NO_JSON, Raw, deep, put, read
from hostile_case import DATA, GOLDEN, GRAPH, TOKENIZER, Case, changed, relocated, setting, setting_of, without
from hostile_graphs import graphs, weights
from hostile_tokenizers import tokenizers


def corpus() -> Iterator[Case]:
    for cases in (
        paths,
        file_types,
        documents,
        schedules,
        sources,
        latents,
        guidance,
        tokenizers,
        weights,
        graphs,
        listings,
        self_tests,
    ):
        yield from cases()


PATHS = (
    "..",
    ".",
    "../x",
    "a/../../x",
    "/etc/passwd",
    "//host/share",
    "a//b",
    "./a",
    "a/",
    "C:x",
    "C:\\x",
    "a\\b",
    "\\\\host\\x",
    "a/.. /b",
    "a.",
    "a /b",
    " a",
    "con",
    "a/NUL.onnx",
    "COM1",
    "lpt9.txt",
    "a\0b",
    "a\nb",
    "a\x1b[2Jb",
    "a\u202eb",
    "a\u200bb",
    "file:x",
    "x" * 300,
    "a/" * 9 + "a",
    "",
    "\u2028",
    "~/../x/..",
    "a/./b",
)


def paths() -> Iterator[Case]:
    for path in PATHS:
        yield Case("paths", f"listed {path!a}"[:60], changed(lambda r, p=path: r["files"][0].update(path=p)))  # type: ignore[misc]
        yield Case("paths", f"graph {path!a}"[:60], setting(path, "components", "unet", "file"))
    for path in PATHS[::3]:
        yield Case("paths", f"tokenizer {path!a}"[:60], setting(path, "tokenizers", "tokenizer", "file"))
        yield Case("paths", f"weights {path!a}"[:60], lambda f, p=path: relocated(f, location=p))  # type: ignore[misc]


def replaced(name: str, make: Callable[[Path, Path], object]) -> Callable[[Path], None]:
    """A file moved out of the bundle, something else in its place: `make(place, moved)`."""

    def mutate(folder: Path) -> None:
        moved = folder.with_name(f"{folder.name}-moved")
        (folder / name).rename(moved)
        make(folder / name, moved)

    return mutate


def bound(place: Path, moved: Path) -> None:
    here = os.getcwd()
    os.chdir(place.parent)  # the name of a socket has 107 bytes at most
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(place.name)
    finally:
        os.chdir(here)


def linked_folder(folder: Path) -> None:
    moved = folder.with_name(f"{folder.name}-moved")
    (folder / "unet").rename(moved)
    (folder / "unet").symlink_to(moved)


KINDS: dict[str, Callable[[Path, Path], object]] = {
    "symbolic link": lambda place, moved: place.symlink_to(moved),
    "relative link": lambda place, moved: place.symlink_to(os.path.relpath(moved, place.parent)),
    "link to nothing": lambda place, moved: place.symlink_to("nowhere"),
    "link to itself": lambda place, moved: place.symlink_to(place.name),
    "hard link": lambda place, moved: place.hardlink_to(moved),
    "pipe": lambda place, moved: os.mkfifo(place),
    "socket": bound,
    "folder": lambda place, moved: place.mkdir(),
    "nothing": lambda place, moved: None,
    "empty": lambda place, moved: place.write_bytes(b""),
    "shorter": lambda place, moved: place.write_bytes(moved.read_bytes()[:-3]),
    "longer": lambda place, moved: place.write_bytes(moved.read_bytes() + b"x"),
    "other bytes": lambda place, moved: place.write_bytes(bytes(moved.stat().st_size)),
}


def file_types() -> Iterator[Case]:
    for kind, make in KINDS.items():
        for name in ("qsched.json", GRAPH, DATA, TOKENIZER, GOLDEN):
            if name != "qsched.json" or kind != "longer":
                yield Case("file types", f"{kind} for {name}", replaced(name, make))
    yield Case("file types", "a folder that is a link", linked_folder)
    if os.geteuid() == 0:
        zero = stat.S_IFCHR | 0o600
        yield Case("file types", "device", replaced(DATA, lambda p, m: os.mknod(p, zero, os.makedev(1, 5))))


def documents() -> Iterator[Case]:
    for i, text in enumerate(NO_JSON):
        yield Case("JSON", f"text {i}", lambda f, t=text: (f / "qsched.json").write_bytes(t))  # type: ignore[misc]
        yield Case("JSON", f"tokenizer text {i}", lambda f, t=text: put(f, TOKENIZER, t))  # type: ignore[misc]
    for name, (change, _) in MANIFESTS.items():
        yield Case("JSON", name, changed(change))
    required = (
        "format",
        "version",
        "name",
        "backbone",
        "decoder",
        "encoder",
        "components",
        "tokenizers",
        "latents",
        "guidance",
        "strength_rounds_up",
        "noise",
        "default_steps",
        "schedules",
        "files",
    )
    for key in required:
        yield Case("JSON", f"no {key}", without(key))
        for value in (3.5, [], {"x": 1}):
            yield Case("JSON", f"{key} is {value}", setting(value, key))
    for key in ("provenance", "recipe", "calibration", "extra"):
        yield Case("JSON", f"{key} is a list", setting([], key))
    yield Case("JSON", "a byte order mark", lambda f: prefixed(f, b"\xef\xbb\xbf"))
    yield Case("JSON", "UTF-16", lambda f: (f / "qsched.json").write_text(json.dumps(read(f)), "utf-16"))
    yield Case("JSON", "two documents", lambda f: prefixed(f, b"{}"))
    yield Case("JSON", "NUL bytes behind it", lambda f: append_to(f / "qsched.json", bytes(100)))
    yield Case("JSON", "deep extra", setting(deep(60), "extra"))
    yield Case("JSON", "version 4", setting(4, "version"))
    yield Case("JSON", "version true", setting("1", "version"))
    yield Case("JSON", "other noise", setting({"algorithm": "philox"}, "noise"))
    yield Case("JSON", "long name", setting("x" * 100_000, "name"))


def prefixed(folder: Path, data: bytes) -> None:
    (folder / "qsched.json").write_bytes(data + (folder / "qsched.json").read_bytes())


def append_to(path: Path, data: bytes) -> None:
    with path.open("ab") as handle:
        handle.write(data)


COLUMNS = ("timesteps", "c_in", "a", "b", "c", "start_x0", "start_noise")


def schedules() -> Iterator[Case]:
    for column in COLUMNS:
        for name, value in {
            "empty": [],
            "short": [1.0],
            "long": [1.0] * 5,
            "huge": [1e300] * 4,
            "null": [None] * 4,
            "text": ["1"] * 4,
            "rows": [[1.0]] * 4,
            "one number": 1.0,
            "a million": [1.0] * 100_000,
        }.items():
            yield Case("schedules", f"{column} {name}", setting(value, "schedules", "4", column))
        yield Case("schedules", f"no {column}", without("schedules", "4", column))
    for key in ("04", "-4", "4.0", " 4", "1e1", "\u0664", "0", "10000", "", "four", "4\n"):
        yield Case(
            "schedules", f"key {key!a}", changed(lambda r, k=key: r["schedules"].update({k: r["schedules"]["4"]}))
        )  # type: ignore[misc]
    for name, value in {"none": {}, "list": [], "null": {"4": None}}.items():
        yield Case("schedules", f"schedules are {name}", setting(value, "schedules"))
    for value in (0, -4, 3.5, "4", True, 10**30, None):
        yield Case("schedules", f"default of {value!a}", setting(value, "default_steps"))
    for value in (1e30, "1", None, [1.0], -1e300, 0, -1.0):
        yield Case("schedules", f"init_noise_sigma {value!a}", setting(value, "schedules", "4", "init_noise_sigma"))
    for value in ("x", [], {}, {"kind": "exponential"}, 1e300):
        yield Case("schedules", f"shift {value!a}", setting(value, "schedules", "4", "shift"))
    for column in ("c_x", "c_eps", "bias"):
        for name, value in {
            "short": [1.0],
            "channels": [[1.0] * 3] * 4,
            "ragged": [[1.0], 1.0, 1.0, 1.0],
            "deep": [[[1.0]]] * 4,
            "text": ["1"] * 4,
            "wide": [[1.0] * 10_000] * 4,
        }.items():
            yield Case("schedules", f"{column} {name}", setting(value, "schedules", "4", column))


def source_of(name: str, value: Any) -> Callable[[Path], None]:
    return setting(value, "components", "unet", "inputs", name)


def sources() -> Iterator[Case]:
    values: dict[str, Any] = {
        "unknown": "prompt",
        "a number": 3,
        "null": None,
        "a list": ["latents"],
        "true": True,
        "empty": {},
        "two keys": {"zeros": [1], "tokenizer": "tokenizer"},
        "no width": {"guidance_embedding": 0},
        "width 1": {"guidance_embedding": 1},
        "a negative width": {"guidance_embedding": -16},
        "an odd type": {"guidance_embedding": 16.5},
        "a wide embedding": {"guidance_embedding": 10**9},
        "negative zeros": {"zeros": [-1]},
        "no zeros": {"zeros": []},
        "many axes": {"zeros": [1] * 70},
        "large zeros": {"zeros": [4096] * 3},
        "no tokenizer": {"tokenizer": "other"},
        "no outputs": {"outputs": []},
        "an unknown output": {"outputs": ["text_encoder.x"]},
        "its own output": {"outputs": ["unet.out_sample"]},
        "a later output": {"outputs": ["vae_decoder.sample"]},
        "a path": {"outputs": ["../x"]},
        "many outputs": {"outputs": ["text_encoder.last_hidden_state"] * 100},
        "controls": "\x1b[31mlatents",
        "another shape": {"zeros": [3, 7]},
        "patches": "patch_positions",
        "another width": {"guidance_embedding": 64},
        "a picture": "image",
    }
    for name, value in values.items():
        yield Case("input sources", name, source_of("timestep_cond", value))
    for name, value in {"no inputs": {}, "a list": ["sample"], "text": "latents"}.items():
        yield Case("input sources", name, setting(value, "components", "unet", "inputs"))
    yield Case("input sources", "one less", without("components", "unet", "inputs", "timestep"))
    yield Case("input sources", "one more", source_of("more", "timestep"))
    yield Case("input sources", "another name", changed(renamed))
    yield Case(
        "input sources",
        "a text encoder of latents",
        setting("latents", "components", "text_encoder", "inputs", "input_ids"),
    )
    yield Case("input sources", "tokens for latents", source_of("sample", {"tokenizer": "tokenizer"}))
    yield Case("input sources", "no latents", source_of("sample", "timestep"))
    yield Case("input sources", "latents for the step", source_of("timestep", "latents"))
    for value in ([], ["x"], "out_sample", [1], ["out_sample"] * 100):
        yield Case("input sources", f"outputs {str(value)[:20]}", setting(value, "components", "unet", "outputs"))
    for role in ("backbone", "decoder", "encoder"):
        yield Case("input sources", f"{role} is none", setting("nobody", role))
        yield Case("input sources", f"{role} is a path", setting("../unet", role))
    yield Case("input sources", "roles exchanged", changed(lambda r: r.update(backbone="vae_decoder", decoder="unet")))
    yield Case("input sources", "the decoder is the text encoder", setting("text_encoder", "decoder"))


def renamed(raw: Raw) -> None:
    inputs = raw["components"]["unet"]["inputs"]
    inputs["sample2"] = inputs.pop("sample")


def latents() -> Iterator[Case]:
    for key in ("channels", "height", "width", "scaling_factor", "pixels_per_latent", "multiple_of"):
        for value in (0, -1, 10**12, 1e300, "8", None, [8], True):
            yield Case("latents", f"{key} {value!a}", setting(value, "latents", key))
        yield Case("latents", f"no {key}", without("latents", key))
    for key, value in {"patch": -1, "shift_factor": 1e300, "channels": 5, "pixels_per_latent": 4, "patch ": 2}.items():
        yield Case("latents", f"{key} {value}", setting(value, "latents", key))
    for value in (3, 17, 1.5, "2", 10**9):
        yield Case("latents", f"patch {value!a}", setting(value, "latents", "patch"))
    yield Case(
        "latents", "large", changed(lambda r: r["latents"].update(height=1024, width=1024, pixels_per_latent=64))
    )
    yield Case("latents", "3,000 rows", setting(3_000, "latents", "height"))


def guidance() -> Iterator[Case]:
    for key, values in {
        "kind": ("strong", "", None, 1, "NONE"),
        "default": (-1, 1e30, "2", None, [2.0], True),
        "zero_without_negative": ("yes", 1, None),
    }.items():
        for value in values:
            yield Case("guidance", f"{key} {value!a}", setting(value, "guidance", key))
    for key in ("kind", "default"):
        yield Case("guidance", f"no {key}", without("guidance", key))
    yield Case("guidance", "an unknown key", setting(1, "guidance", "scale"))


def listings() -> Iterator[Case]:
    for key, values in {
        "bytes": (-1, 0, 2**63, 1.5, "1", None, True),
        "sha256": ("", "x" * 64, "A" * 64, "0" * 63, "0" * 64, None, 5),
    }.items():
        for value in values:
            yield Case("files list", f"{key} {value!a}", lambda f, k=key, v=value: setting_of(f, GRAPH, **{k: v}))  # type: ignore[misc]
    changes: dict[str, Callable[[Raw], object]] = {
        "empty": lambda r: r.update(files=[]),
        "a table": lambda r: r.update(files={}),
        "null": lambda r: r.update(files=[None]),
        "text": lambda r: r.update(files=["unet/model.onnx"]),
        "one often": lambda r: r.update(files=r["files"][:1] * 1_000),
        "too many": lambda r: r.update(files=r["files"] * 300),
        "one twice": lambda r: r["files"].append(r["files"][0]),
        "itself": lambda r: r["files"].append({**r["files"][0], "path": "qsched.json"}),
        "by case": lambda r: r["files"].append({**r["files"][0], "path": r["files"][0]["path"].lower()}),
        "by form": lambda r: r["files"].extend({**r["files"][0], "path": p} for p in ("caf\u00e9", "cafe\u0301")),
        "not there": lambda r: r["files"].append({"path": "x", "bytes": 0, "sha256": "0" * 64}),
        "a folder": lambda r: r["files"].append({"path": "unet", "bytes": 0, "sha256": "0" * 64}),
        "more keys": lambda r: r["files"][0].update(url="http://x"),
        "no hash": lambda r: r["files"][0].pop("sha256"),
        "no size": lambda r: r["files"][0].pop("bytes"),
        "no path": lambda r: r["files"][0].pop("path"),
        "no graph": lambda r: r.update(files=[f for f in r["files"] if f["path"] != GRAPH]),
        "no tokenizer": lambda r: r.update(files=[f for f in r["files"] if f["path"] != TOKENIZER]),
    }
    for name, change in changes.items():
        yield Case("files list", name, changed(change))


GOLDENS: dict[str, Any] = {
    "list": [],
    "number": 3,
    "text": "x",
    "null": None,
    "empty": {},
    "text output": {"network_output": "x"},
    "texts": {"network_output": ["x"]},
    "null values": {"network_output": [None] * 8},
    "one value": {"network_output": [0.5]},
    "a million values": {"network_output": [0.5] * 500_000},
    "deep": {"network_output": [[[[0.5]]]]},
    "huge values": {"network_output": [1e308] * 8},
    "true": {"network_output": [True] * 8},
    "another noise": {"noise_sha256": "0" * 64},
    "another type of noise": {"noise_sha256": 5},
    "ids of text": {"token_ids": "x"},
    "other ids": {"token_ids": {"tokenizer": [1, 2]}},
    "escapes": {"noise_sha256": "\x1b[2J\n" * 200},
}


def self_tests() -> Iterator[Case]:
    """What `verify` refuses."""

    def mutate(folder: Path, value: Any) -> None:
        good = json.loads((folder / GOLDEN).read_text())
        put(folder, GOLDEN, json.dumps({**good, **value} if isinstance(value, dict) and value else value).encode())

    for name, value in GOLDENS.items():
        yield Case("self-test", name, lambda f, v=value: mutate(f, v))  # type: ignore[misc]
    for i, text in enumerate(NO_JSON):
        yield Case("self-test", f"text {i}", lambda f, t=text: put(f, GOLDEN, t))  # type: ignore[misc]
    yield Case(
        "self-test", "not listed", changed(lambda r: r.update(files=[f for f in r["files"] if f["path"] != GOLDEN]))
    )
    yield Case("self-test", "a stray file", lambda f: (f / "unet/stray").write_text("x"))
