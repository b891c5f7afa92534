"""A bundle as one file: the same pictures, the same strictness, and no way around it through the zip."""

import hashlib
import json
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import cli
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from qsched_runtime import BundleError, Sampler
from qsched_runtime import manifest as manifests
from qsched_runtime.packed import Packed

from qsched_edge.bundle.opened import open_bundle
from qsched_edge.bundle.packing import pack, unpack
from qsched_edge.bundle.verify import verify
from qsched_edge.errors import OutputExistsError


@pytest.fixture(scope="module")
def packed(bundles: dict[int, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack(bundles[4], tmp_path_factory.mktemp("packed") / "mini.qsched")


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("memory", ["low", "fast", "sequential"])
def test_a_packed_bundle_draws_what_its_folder_draws(memory: str, bundles: dict[int, Path], packed: Path) -> None:
    expected = Sampler.from_pretrained(bundles[4], memory=memory)("a red apple", seed=7)
    found = Sampler.from_pretrained(packed, memory=memory)("a red apple", seed=7)
    assert np.array_equal(found.images, expected.images)
    assert np.array_equal(found.latents, expected.latents)


def test_packing_gives_the_same_bytes_and_unpacking_the_same_files(
    bundles: dict[int, Path], packed: Path, tmp_path: Path
) -> None:
    again = pack(bundles[4], tmp_path / "again.qsched")
    assert again.read_bytes() == packed.read_bytes()
    folder = unpack(packed, tmp_path / "folder")
    assert contents(folder) == contents(bundles[4])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again.qsched", "folder"]
    with pytest.raises(OutputExistsError, match="--force"):
        unpack(packed, folder)
    with pytest.raises(OutputExistsError, match="--force"):
        pack(bundles[4], again)
    verify(packed)


def test_it_is_a_zip_that_anybody_reads_and_its_files_are_aligned(bundles: dict[int, Path], packed: Path) -> None:
    with zipfile.ZipFile(packed) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["qsched.json", *(f.path for f in manifests.read(bundles[4]).files)]
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
    for name, entry in Packed(packed).entries.items():
        assert entry.start % (4096 if entry.size >= 2**20 else 64) == 0
        data = packed.read_bytes()[entry.start : entry.start + entry.size]
        assert data == (bundles[4] / name).read_bytes()


def test_a_damaged_bundle_is_not_packed(bundles: dict[int, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bundles[4], tmp_path / "bundle"))
    data = folder / "unet/model.onnx_data"
    for damage, message in ((data.read_bytes()[:-1], "bytes instead of"), (bytes(data.stat().st_size), "SHA-256")):
        data.write_bytes(damage)
        with pytest.raises(BundleError, match=message):
            pack(folder, tmp_path / "x.qsched")
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


def one_clear_line(error: Exception) -> None:
    assert 10 < len(str(error)) <= 300
    assert str(error).isprintable()


def rezipped(source: Path, target: Path, change: Callable[[zipfile.ZipFile], object], **options: int) -> Path:
    """The packed bundle written again by zipfile, and more put in."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", **options) as new:  # type: ignore[call-overload]
        for name in old.namelist():
            new.writestr(name, old.read(name))
        change(new)
    return target


def patched(change: Callable[[bytearray, int], object]) -> Callable[[Path, Path], Path]:
    """The packed bundle with bytes changed; `change` gets them and where the list of files begins."""

    def write(source: Path, target: Path) -> Path:
        data = bytearray(source.read_bytes())
        change(data, struct.unpack_from("<I", data, len(data) - 6)[0])
        target.write_bytes(data)
        return target

    return write


def put(form: str, offset: int, value: int) -> Callable[[bytearray, int], None]:
    return lambda data, directory: struct.pack_into(form, data, directory + offset, value)


def at_end(form: str, offset: int, value: int) -> Callable[[bytearray, int], None]:
    return lambda data, directory: struct.pack_into(form, data, len(data) - 22 + offset, value)


def twice(data: bytearray, directory: int) -> None:
    """The second file takes the first one's place in the file."""
    length = struct.unpack_from("<H", data, directory + 28)[0]
    data[directory + 46 + length + 42 : directory + 46 + length + 46] = data[directory + 42 : directory + 46]


def written(data: bytes) -> Callable[[Path, Path], Path]:
    def write(source: Path, target: Path) -> Path:
        target.write_bytes(data)
        return target

    return write


def links(info: zipfile.ZipInfo) -> zipfile.ZipInfo:
    info.external_attr = 0o120777 << 16
    return info


HOSTILE: dict[str, tuple[Callable[[Path, Path], Path], str]] = {
    "compressed": (
        lambda s, t: rezipped(s, t, lambda z: None, compression=zipfile.ZIP_DEFLATED),
        "compressed or encrypted",
    ),
    "a stray": (lambda s, t: rezipped(s, t, lambda z: z.writestr("stray", "x")), "'stray' is in"),
    "a folder": (lambda s, t: rezipped(s, t, lambda z: z.writestr("folder/", "")), "leaves the bundle"),
    "parent": (lambda s, t: rezipped(s, t, lambda z: z.writestr("../x", "x")), "leaves the bundle"),
    "absolute": (lambda s, t: rezipped(s, t, lambda z: z.writestr("/etc/x", "x")), "leaves the bundle"),
    "drive": (lambda s, t: rezipped(s, t, lambda z: z.writestr("C:x", "x")), "leaves the bundle"),
    "device": (lambda s, t: rezipped(s, t, lambda z: z.writestr("unet/NUL", "x")), "no plain name"),
    "link": (
        lambda s, t: rezipped(s, t, lambda z: z.writestr(links(zipfile.ZipInfo("link")), "/etc/passwd")),
        "'link'",
    ),
    "by case": (lambda s, t: rezipped(s, t, lambda z: z.writestr("QSCHED.json", "{}")), "one file on some systems"),
    "twice": (lambda s, t: rezipped(s, t, lambda z: z.writestr("qsched.json", "{}")), "stands twice"),
    "many": (
        lambda s, t: rezipped(s, t, lambda z: [z.writestr(f"x{i}", "") for i in range(2_100)]),
        "lists too many files",
    ),
    "encrypted": (patched(put("<H", 8, 1)), "compressed or encrypted"),
    "two sizes": (patched(put("<I", 24, 7)), "compressed or encrypted"),
    "beyond the end": (patched(lambda d, c: (put("<I", 20, 2**31)(d, c), put("<I", 24, 2**31)(d, c))), "share bytes"),
    "a place beyond": (patched(put("<I", 42, 2**31)), "out of the file"),
    "a place in the list": (patched(lambda d, c: struct.pack_into("<I", d, c + 42, c)), "out of the file|not stored"),
    "shared bytes": (patched(twice), "not stored as it is listed|share bytes"),
    "a foreign header": (patched(lambda d, c: struct.pack_into("<4s", d, 0, b"XXXX")), "not stored as it is listed"),
    "another name": (patched(lambda d, c: struct.pack_into("<4s", d, 30, b"evil")), "not stored as it is listed"),
    "deflated header": (patched(lambda d, c: struct.pack_into("<H", d, 8, 8)), "not stored as it is listed"),
    "no large size": (patched(lambda d, c: (put("<I", 20, 2**32 - 1)(d, c), put("<I", 24, 2**32 - 1)(d, c))), "lacks"),
    "a large list": (patched(at_end("<I", 12, 2**31)), "too many files"),
    "a list outside": (patched(at_end("<I", 16, 2**31)), "out of the file"),
    "fewer files": (patched(at_end("<H", 10, 3)), "its list is damaged"),
    "more files": (patched(at_end("<H", 10, 300)), "its list is damaged"),
    "no locator": (patched(at_end("<H", 10, 0xFFFF)), "not where it says"),
    "cut": (lambda s, t: written(s.read_bytes()[:50_000])(s, t), "no list of files"),
    "empty": (written(b""), "no list of files"),
    "text": (written(b"x" * 5000), "no list of files"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_packed_bundles_are_refused_in_one_line(case: str, packed: Path, tmp_path: Path) -> None:
    make, message = HOSTILE[case]
    bad = make(packed, tmp_path / "bad.qsched")
    for opens in (Sampler.from_pretrained, verify, lambda path: unpack(path, tmp_path / "out")):
        with pytest.raises(BundleError, match=message) as caught:
            opens(bad)
        one_clear_line(caught.value)
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "x").exists()


def test_a_file_of_another_size_or_hash_is_refused(packed: Path, tmp_path: Path) -> None:
    data = bytearray(packed.read_bytes())
    entry = Packed(packed).entries["unet/model.onnx_data"]
    data[entry.start + 9] ^= 1
    (tmp_path / "bad.qsched").write_bytes(data)
    for opens in (Sampler.from_pretrained, verify, lambda path: unpack(path, tmp_path / "out")):
        with pytest.raises(BundleError, match="does not have the SHA-256"):
            opens(tmp_path / "bad.qsched")
    assert not (tmp_path / "out").exists()


def test_weights_outside_the_packed_bundle_are_never_read(bundles: dict[int, Path], tmp_path: Path) -> None:
    """A graph that names the packed file's neighbour is refused as in a folder."""
    folder = Path(shutil.copytree(bundles[4], tmp_path / "bundle"))
    graph = folder / "unet/model.onnx"
    graph.write_bytes(graph.read_bytes().replace(b"model.onnx_data", b"../secret_data1", 1))
    raw = json.loads((folder / "qsched.json").read_text())
    for file in raw["files"]:
        if file["path"] == "unet/model.onnx":
            file["sha256"] = hashlib.sha256(graph.read_bytes()).hexdigest()
    (folder / "qsched.json").write_text(json.dumps(raw))
    with pytest.raises(BundleError, match="belong beside it"):
        Sampler.from_pretrained(pack(folder, tmp_path / "bad.qsched"))


def test_stages_that_write_into_a_bundle_ask_for_a_folder(packed: Path) -> None:
    with pytest.raises(BundleError, match=r"is a file: unpack it first \(qsched-edge unpack mini.qsched -o FOLDER\)"):
        open_bundle(packed)


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_damaged_lists_are_refused_or_lead_nowhere_else(
    packed: Path, tmp_path_factory: object, data: st.DataObject
) -> None:
    whole = bytearray(packed.read_bytes())
    start = struct.unpack_from("<I", whole, len(whole) - 6)[0]
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(start, len(whole) - 1))
        whole[at : at + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
    bad = packed.with_name("damaged.qsched")
    bad.write_bytes(whole)
    try:
        found = Packed(bad).entries
    except BundleError as error:
        one_clear_line(error)
        return
    assert all(e.start + e.size <= len(whole) for e in found.values())


def test_the_command_line_packs_draws_and_unpacks(bundles: dict[int, Path], tmp_path: Path) -> None:
    one = tmp_path / "one.qsched"
    assert cli("pack", bundles[4], "-o", one, "--quiet").returncode == 0
    pictures = []
    for bundle in (bundles[4], one):
        done = cli("run", bundle, "-p", "a red apple", "--seed", 3, "-o", tmp_path / "x.png", "--force", "--quiet")
        assert done.returncode == 0, done.stderr
        pictures.append((tmp_path / "x.png").read_bytes())
    assert pictures[0] == pictures[1]
    assert "unpack it first" in cli("inspect", one).stderr
    assert cli("unpack", one, "--quiet").returncode == 0
    assert contents(tmp_path / "one") == contents(bundles[4])
