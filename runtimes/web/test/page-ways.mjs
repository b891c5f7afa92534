// Loads a bundle in a page in every way that there is and prints what came of each, for the tests.
// {chromium, url, folder, altered: {NAME: URL}} -> {NAME: SHA-256 of a picture, the error's name, or what was counted};
// `url` is a server of `qsched-edge serve`, `folder` the bundle on disk, to drop and to choose.

import { text } from "node:stream/consumers";

import { chromium } from "playwright-core";

const FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"];
const job = JSON.parse(await text(process.stdin));
const browser = await chromium.launch({ executablePath: job.chromium, args: FLAGS });
const results = {};
const page = await browser.newPage();
page.setDefaultTimeout(0);
page.on("console", (message) => console.error(message.text()));
const fetched = [];
page.on("request", (request) => fetched.push(new URL(request.url()).pathname));

/** Runs in the page: what drawing with a source gives. */
async function install() {
  const { Sampler, droppedFiles, forgetDownloads } = await import("/runtime/browser.js");
  const load = { ort: "/ort/", device: "wasm", threads: 1 };
  globalThis.ways = {
    forgetDownloads,
    async drawn(source, more = {}, options = {}) {
      try {
        const sampler = await Sampler.load(source, { ...load, ...more });
        const { images } = await sampler.draw("a red apple", { seed: 5, ...options });
        await sampler.close();
        const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", images[0].data));
        return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
      } catch (error) {
        return error.name;
      }
    },
    /** {name, message} of a signal that aborts where `stage` is told. */
    abortedAt(stage) {
      const controller = new AbortController();
      const onProgress = (told) => told.stage === stage && controller.abort();
      return this.drawn("/bundle/", { onProgress, signal: controller.signal });
    },
    abortedWhileDrawing() {
      const controller = new AbortController();
      return this.drawn("/bundle/", {}, { signal: controller.signal, onStep: () => controller.abort() });
    },
    async stages() {
      const told = new Set();
      const notices = [];
      await this.drawn("/bundle/", { device: "auto", onProgress: ({ stage }) => told.add(stage), onNotice: (text) => notices.push(text) });
      return { stages: [...told], notices };
    },
    /** Other bytes under each key of the cache. */
    async spoil() {
      const cache = await caches.open("qsched-bundles");
      const keys = await cache.keys();
      for (const key of keys) await cache.put(key, new Response("spoiled"));
      return keys.length;
    },
  };
  document.body.innerHTML = '<input type="file" webkitdirectory id="chosen">';
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => {
    event.preventDefault();
    globalThis.dropped = droppedFiles(event.dataTransfer);
  });
}

/** How often a data file is fetched while `act` runs in the page. */
async function counted(act) {
  fetched.length = 0;
  const digest = await page.evaluate(act);
  return { digest, fetched: fetched.filter((path) => path.startsWith("/bundle/") && path.endsWith("model.onnx_data")).length };
}

try {
  await page.goto(job.url);
  await page.evaluate(install);
  const draw = () => globalThis.ways.drawn("/bundle/");
  results.first = await counted(draw);
  results.again = await counted(draw);
  results.kept = await page.evaluate(() => globalThis.ways.spoil());
  results.spoiled = await counted(draw);
  results.forgotten = await page.evaluate(() => globalThis.ways.forgetDownloads());
  results.anew = await counted(draw);
  results.uncached = await counted(() => globalThis.ways.drawn("/bundle/", { cache: false }));

  await page.locator("#chosen").setInputFiles(job.folder);
  results.chosen = await page.evaluate(() => globalThis.ways.drawn(document.getElementById("chosen").files));
  const devtools = await page.context().newCDPSession(page);
  const data = { items: [], files: [job.folder], dragOperationsMask: 1 };
  for (const type of ["dragEnter", "dragOver", "drop"]) await devtools.send("Input.dispatchDragEvent", { type, x: 50, y: 50, data });
  results.dropped = await page.evaluate(async () => globalThis.ways.drawn(await globalThis.dropped));

  for (const [name, url] of Object.entries(job.altered)) {
    results[name] = await page.evaluate((address) => globalThis.ways.drawn(address), url);
    results[`${name}, untested`] = await page.evaluate((address) => globalThis.ways.drawn(address, { selfTest: false }), url);
  }
  results.told = await page.evaluate(() => globalThis.ways.stages());
  for (const stage of ["download", "load", "self-test"]) {
    results[`aborted at ${stage}`] = await page.evaluate((at) => globalThis.ways.abortedAt(at), stage);
  }
  results["aborted while drawing"] = await page.evaluate(() => globalThis.ways.abortedWhileDrawing());
  results.webgpu = await page.evaluate(() => globalThis.ways.drawn("/bundle/", { device: "webgpu" }));
  results.tpu = await page.evaluate(() => globalThis.ways.drawn("/bundle/", { device: "tpu" }));
  results.nothing = await page.evaluate(() => globalThis.ways.drawn("/elsewhere/"));
  console.log(JSON.stringify(results));
} finally {
  await browser.close();
}
