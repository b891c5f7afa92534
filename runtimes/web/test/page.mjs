// Opens a page of `qsched-edge serve` or `site` in headless Chromium, types, draws, and prints what it saw.
// {chromium, url, prompt, seed, where, steps?, cancel?, reload?, axe?, screenshots?: [{path, width, height, scheme}]}
// -> {seconds, cpu, isolated, status, notice, error, pictures: [base64 of RGBA], sides, steps, elsewhere, violations}

import { createRequire } from "node:module";
import { text } from "node:stream/consumers";
import { readdirSync, readFileSync } from "node:fs";
import { readFile } from "node:fs/promises";

import { chromium } from "playwright-core";

const FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];
const PATIENCE = 120_000; // a machine may be busy
const WINDOWS = [
  { width: 390, height: 844, scheme: "light" },
  { width: 390, height: 844, scheme: "dark" },
  { width: 1440, height: 900, scheme: "light" },
  { width: 1440, height: 900, scheme: "dark" },
];
const job = JSON.parse(await text(process.stdin));
const origin = new URL(job.url).origin;
const browser = await chromium.launch({ executablePath: job.chromium, args: FLAGS });

async function opened() {
  const context = await browser.newContext({ viewport: { width: 1440, height: 900 }, acceptDownloads: true });
  const page = await context.newPage();
  const seen = { elsewhere: [], faults: [] };
  page.setDefaultTimeout(PATIENCE);
  page.on("request", (request) => {
    if (!request.url().startsWith(origin) && !/^(blob|data):/.test(request.url())) seen.elsewhere.push(request.url());
  });
  page.on("pageerror", (error) => seen.faults.push(error.message));
  page.on("console", (message) => message.type() === "error" && seen.faults.push(message.text()));
  await page.goto(job.url);
  if (job.reload) await page.waitForFunction(() => crossOriginIsolated);
  await page.locator("#pictures figure").first().waitFor();
  return { page, seen };
}

/** Types and draws as somebody with a keyboard does. */
async function draw(page) {
  if (job.where === "browser" && (await page.locator("#where").isVisible())) await page.getByLabel("This browser").check();
  if (job.steps) await page.getByLabel("Steps", { exact: true }).selectOption(String(job.steps));
  await page.getByLabel("Seed", { exact: true }).fill(String(job.seed));
  await page.getByLabel("Prompt").fill(job.prompt);
  await page.keyboard.press("Enter");
  if (job.cancel) {
    await page.locator(".steps img").first().waitFor();
    await page.getByRole("button", { name: "Cancel" }).click();
  }
  await page.waitForFunction(() => !document.getElementById("draw").disabled);
}

/** Runs in the page. */
async function read() {
  const shown = (id) => (document.getElementById(id).hidden ? "" : document.getElementById(id).textContent);
  const pictures = [...document.querySelectorAll(".frame img:not([hidden])")].map((image) => {
    const canvas = Object.assign(document.createElement("canvas"), { width: image.naturalWidth, height: image.naturalHeight });
    const context = canvas.getContext("2d");
    context.drawImage(image, 0, 0);
    return context.getImageData(0, 0, canvas.width, canvas.height);
  });
  return {
    isolated: crossOriginIsolated,
    title: document.title,
    names: [...document.querySelectorAll("figure h2")].map((name) => name.textContent),
    about: shown("about"),
    status: shown("status"),
    notice: shown("notice"),
    error: shown("error"),
    pictures: pictures.map(({ data }) => btoa(Array.from(data, (byte) => String.fromCharCode(byte)).join(""))),
    sides: pictures.map(({ width, height }) => [width, height]),
    steps: document.querySelectorAll(".steps img").length,
  };
}

/** What axe-core finds wrong in each window, and whether the page is wider than the window. */
async function inspected(page) {
  const axe = await readFile(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf-8");
  await page.evaluate(axe);
  const found = [];
  for (const { width, height, scheme } of WINDOWS) {
    await page.setViewportSize({ width, height });
    await page.emulateMedia({ colorScheme: scheme });
    const { violations } = await page.evaluate(() => globalThis.axe.run());
    for (const { id, nodes } of violations) found.push(`${width} ${scheme} ${id}: ${nodes[0].html.slice(0, 100)}`);
    if (await page.evaluate(() => document.documentElement.scrollWidth > innerWidth)) found.push(`${width}: it scrolls sideways`);
  }
  return found;
}

/** Seconds of CPU that the browser's processes have taken, those that ended included; a busy machine does not change it. */
function cpuSeconds() {
  const found = new Map();
  for (const pid of readdirSync("/proc").filter((name) => /^\d+$/.test(name))) {
    try {
      const fields = readFileSync(`/proc/${pid}/stat`, "utf-8").replace(/^.*\) /s, "").split(" ");
      found.set(Number(pid), { parent: Number(fields[1]), ticks: fields.slice(11, 15).reduce((all, n) => all + Number(n), 0) });
    } catch {
      continue; // it has just ended
    }
  }
  const ours = (pid) => pid === process.pid || (found.has(pid) && ours(found.get(pid).parent));
  const ticks = [...found].filter(([pid]) => pid !== process.pid && ours(pid)).reduce((all, [, one]) => all + one.ticks, 0);
  return ticks / 100;
}

try {
  const started = performance.now();
  const { page, seen } = await opened();
  await draw(page);
  const [seconds, cpu] = [(performance.now() - started) / 1000, cpuSeconds()];
  const found = await page.evaluate(read);
  if (job.cancel) {
    job.cancel = false;
    await draw(page); // the page draws on
    found.after = (await page.evaluate(read)).status;
  }
  const violations = job.axe ? await inspected(page) : [];
  for (const { path, width, height, scheme } of job.screenshots ?? []) {
    await page.setViewportSize({ width, height });
    await page.emulateMedia({ colorScheme: scheme });
    await page.evaluate(() => scrollTo(0, 0));
    await page.screenshot({ path, fullPage: true });
  }
  console.log(JSON.stringify({ ...found, ...seen, seconds, cpu, violations }));
} finally {
  await browser.close();
}
