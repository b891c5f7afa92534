"""site: the page, the web runtime, onnxruntime-web and a bundle as a folder of files that draws in the browser."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

from qsched_runtime import manifest as manifests
from qsched_runtime.sampler import check_graphs

from qsched_edge.serve.published import CSP, HEADERS, OnnxruntimeWeb, page_config, published
from qsched_edge.work.staging import Staging, write_bytes, write_text

POLICY_AFTER = '<meta charset="utf-8">\n'


def write_site(bundle: Path, output: Path, ort: OnnxruntimeWeb, force: bool = False) -> dict[str, int]:
    """Bytes of each part: page, runtime, ort, bundle. BundleError unless every file of the bundle is as listed."""
    manifest = manifests.read(bundle)
    check_graphs(bundle, manifest)
    files = published(bundle, manifest, ort)
    with Staging(output, {"site": str(bundle), "files": sorted(files)}, force) as staging:
        for name, source in files.items():
            target = staging.folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
        write_bytes(staging.folder / "config.json", page_config(manifest, ort, server=False))
        write_text(staging.folder / "index.html", with_policy((staging.folder / "index.html").read_text("utf-8")))
        write_text(staging.folder / "_headers", headers_file())
        write_text(staging.folder / ".nojekyll", "")  # GitHub Pages copies the files as they are
    return sizes_of(output)


def with_policy(page: str) -> str:
    """The page with its content security policy inside, for hosts whose headers cannot be set."""
    policy = f'<meta http-equiv="Content-Security-Policy" content="{CSP}">\n'
    return page.replace(POLICY_AFTER, POLICY_AFTER + policy, 1)


def headers_file() -> str:
    """Headers as Netlify and Cloudflare Pages read them; other hosts are told in docs/serve.md."""
    return "\n".join(["/*", *(f"  {name}: {value}" for name, value in HEADERS.items())]) + "\n"


def sizes_of(site: Path) -> dict[str, int]:
    """Bytes by the folder that files lie in; those at the root are the page."""
    found: Counter[str] = Counter()
    for file in site.rglob("*"):
        if file.is_file():
            parts = file.relative_to(site).parts
            found[parts[0] if len(parts) > 1 else "page"] += file.stat().st_size
    return dict(found)
