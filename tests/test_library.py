"""pyiqa's metrics as judges: nothing is fetched that may not be, and LPIPS is what its paper says."""

from __future__ import annotations

import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hub_server import serving

from qsched_edge.errors import MetricError
from qsched_edge.jaq import iqa
from qsched_edge.jaq.judges import Drawn
from qsched_edge.jaq.library import LibraryMetric, lpips
from qsched_edge.jaq.settings import JudgeSource

PIXELS = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)).numpy()


def test_offline_no_library_reaches_the_network(tmp_path: Path) -> None:
    """Libraries import these functions by name, so the functions themselves must refuse."""
    from torch.hub import download_url_to_file

    asked: list[Callable[[str], object]] = [
        lambda url: download_url_to_file(url, str(tmp_path / "out"), progress=False),
        lambda url: urllib.request.urlopen(url).read(),
    ]
    (tmp_path / "maker/model").mkdir(parents=True)
    (tmp_path / "maker/model/weights.bin").write_bytes(b"weights")
    with serving(tmp_path) as hub:
        url = f"{hub.url}/maker/model/resolve/main/weights.bin"
        for ask in asked:
            with iqa.offline(), pytest.raises(OSError, match=r"weights\.bin would be downloaded"):
                ask(url)
        assert hub.fetched == []
        for ask in asked:
            ask(url)
        assert hub.fetched == ["maker/model/weights.bin"] * 2


def test_a_picture_too_small_for_a_metric_is_one_line() -> None:
    class Deep(torch.nn.Module):
        lower_better = True

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.conv2d(images, torch.ones(1, 3, 32, 32)).mean((1, 2, 3))

    judge = LibraryMetric("deep", Deep(), False, "cpu")
    assert judge.look(Drawn(PIXELS, ("x",) * 2)).values["pyiqa:deep"].shape == (2,)
    with pytest.raises(MetricError, match=r"pyiqa:deep cannot look at 16 x 16 pixels \(.+\): leave it out") as error:
        judge.look(Drawn(PIXELS[..., :16, :16], ("x",) * 2))
    assert "\n" not in str(error.value)


@pytest.fixture
def random_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, torch.Tensor]]:
    """pyiqa's and torch's caches hold a random AlexNet and random weights of LPIPS's last layers."""
    pytest.importorskip("pyiqa")
    from pyiqa.archs.lpips_arch import default_model_urls
    from pyiqa.utils import download_util
    from torchvision.models import AlexNet_Weights, alexnet

    torch.manual_seed(0)
    was = torch.hub.get_dir()
    torch.hub.set_dir(str(tmp_path))
    monkeypatch.setattr(download_util, "DEFAULT_CACHE_DIR", str(tmp_path / "pyiqa"))
    for folder in ("checkpoints", "pyiqa"):
        (tmp_path / folder).mkdir()
    network = alexnet().state_dict()
    torch.save(network, tmp_path / "checkpoints" / Path(AlexNet_Weights.IMAGENET1K_V1.url).name)
    widths = (64, 192, 384, 256, 256)
    last = {f"lin{i}.model.1.weight": torch.rand(1, width, 1, 1) for i, width in enumerate(widths)}
    torch.save(last, tmp_path / "pyiqa" / Path(default_model_urls["0.1_alex"]).name)
    yield {**network, **last}
    torch.hub.set_dir(was)


def as_published(state: dict[str, torch.Tensor], a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """LPIPS (arXiv 1801.03924, equation 1) on AlexNet's five stages."""
    mean, deviation = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    x = torch.cat([((2 * p - 1) - mean[:, None, None]) / deviation[:, None, None] for p in (a, b)])
    total = torch.zeros(len(a))
    for i, (layer, stride, padding) in enumerate(((0, 4, 2), (3, 1, 2), (6, 1, 1), (8, 1, 1), (10, 1, 1))):
        if i in (1, 2):
            x = torch.nn.functional.max_pool2d(x, 3, 2)
        weight, bias = (state[f"features.{layer}.{kind}"] for kind in ("weight", "bias"))
        x = torch.relu(torch.nn.functional.conv2d(x, weight, bias, stride, padding))
        first, second = (x / (x.norm(dim=1, keepdim=True) + 1e-10)).chunk(2)
        total += ((first - second) ** 2 * state[f"lin{i}.model.1.weight"]).sum(1).mean((1, 2))
    return total


def test_lpips_is_what_its_paper_says(
    random_weights: dict[str, torch.Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    judge = lpips(JudgeSource(offline=True))
    other = np.clip(PIXELS * 0.8 + 0.1, 0, 1).astype(np.float32)
    drawn = Drawn(PIXELS, ("x",) * 2, beside=Drawn(other, ("x",) * 2))
    seen, beside = (torch.from_numpy(np.round(pixels * 255) / 255) for pixels in (PIXELS, other))
    expected = as_published(random_weights, seen, beside)
    np.testing.assert_allclose(judge.look(drawn).values["pyiqa:lpips"], expected, rtol=1e-4)
    assert not judge.readings["pyiqa:lpips"].more_is_better
    kept = replace(drawn, images=seen.numpy())  # as a report keeps full precision's pictures, in 8 bits
    assert judge.look(replace(drawn, beside=kept)).values["pyiqa:lpips"] == pytest.approx(0, abs=1e-7)
    assert judge.look(replace(drawn, beside=None)).values == {}
    assert capsys.readouterr().out == "", "a command's result alone goes to stdout"
    with pytest.raises(MetricError, match="cannot look at 16 x 16 pixels"):
        judge.look(Drawn(PIXELS[..., :16, :16], ("x",) * 2, beside=Drawn(other[..., :16, :16], ("x",) * 2)))
