// Draws in headless Chromium what a job on standard input asks for: as draw.mjs, with {device, threads} of the page.
// The job's `chromium` is its program; pages come from loopback with the headers that threads need.

import { createReadStream } from "node:fs";
import { stat } from "node:fs/promises";
import { createServer } from "node:http";
import { text } from "node:stream/consumers";
import { fileURLToPath } from "node:url";

import { chromium } from "playwright-core";

const PACKAGE = fileURLToPath(new URL("../", import.meta.url));
const TYPES = { js: "text/javascript", mjs: "text/javascript", html: "text/html", wasm: "application/wasm" };
const FLAGS = ["--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];
const SOFTWARE_GPU = ["--enable-unsafe-webgpu", "--enable-features=Vulkan", "--use-webgpu-adapter=swiftshader", "--use-angle=swiftshader"];
const job = JSON.parse(await text(process.stdin));

function fileOf(path) {
  const [, first, ...rest] = path.split("/");
  const bundle = job.bundles.find(({ name }) => name === first);
  if (rest.includes("..")) return null;
  return bundle ? `${bundle.path}/${rest.join("/")}` : first === "web" ? `${PACKAGE}${rest.join("/")}` : null;
}

const server = createServer(async (request, response) => {
  const path = new URL(request.url, "http://localhost").pathname;
  const headers = { "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp" };
  if (path === "/") return response.writeHead(200, { ...headers, "Content-Type": "text/html" }).end("<!doctype html>");
  const file = fileOf(decodeURIComponent(path));
  const found = file && (await stat(file).catch(() => null));
  if (!found?.isFile()) return response.writeHead(404, headers).end();
  const type = TYPES[file.split(".").at(-1)] ?? "application/octet-stream";
  response.writeHead(200, { ...headers, "Content-Type": type, "Content-Length": found.size });
  createReadStream(file).pipe(response);
});
await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));

/** Runs in the page. */
async function drawAll({ bundles, device, threads }) {
  const { Sampler } = await import("/web/src/browser.js");
  const { TorchNoise, readTokenizer } = await import("/web/src/core.js");
  const hex = (bytes) => Array.from(new Uint8Array(bytes), (b) => b.toString(16).padStart(2, "0")).join("");
  const results = { notices: [], isolated: crossOriginIsolated };
  for (const { name, prompt, options } of bundles) {
    const started = performance.now();
    const [progress, steps] = [[], []];
    const sampler = await Sampler.load(`/${name}/`, {
      device,
      threads,
      ort: "/web/node_modules/onnxruntime-web/dist/",
      onProgress: (told) => progress.push(told),
      onNotice: (sentence) => results.notices.push(sentence),
    });
    const output = await sampler.draw(prompt, { ...options, onStep: (step) => void steps.push(step.i) });
    const ids = {};
    for (const [key, spec] of Object.entries(sampler.manifest.tokenizers)) {
      const bytes = new Uint8Array(await (await fetch(`/${name}/${spec.file}`)).arrayBuffer());
      ids[key] = readTokenizer(bytes, spec).ids(prompt);
    }
    results[name] = {
      noise: hex(await crypto.subtle.digest("SHA-256", new TorchNoise(options.seed).randn(4096))),
      ids,
      pictures: output.images.map((image) => btoa(String.fromCharCode(...image.data))),
      sides: output.images.map(({ width, height }) => [width, height]),
      seconds: (performance.now() - started) / 1000,
      device: sampler.device,
      downloaded: progress.filter(({ stage }) => stage === "download").at(-1),
      ready: progress.at(-1)?.stage,
      steps: steps.length,
    };
    await sampler.close();
  }
  return results;
}

const args = [...FLAGS, ...(job.device === "wasm" ? ["--disable-gpu"] : SOFTWARE_GPU)];
const browser = await chromium.launch({ executablePath: job.chromium, args });
try {
  const page = await browser.newPage();
  page.on("console", (message) => console.error(message.text()));
  await page.goto(`http://127.0.0.1:${server.address().port}/`);
  page.setDefaultTimeout(0);
  console.log(JSON.stringify(await page.evaluate(drawAll, job)));
} finally {
  await browser.close();
  server.close();
}
