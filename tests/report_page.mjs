// Opens the report page that a job on standard input names in headless Chromium and says what its reader meets there.

import { text } from "node:stream/consumers";
import { pathToFileURL } from "node:url";

import { chromium } from "../runtimes/web/node_modules/playwright-core/index.mjs";

const job = JSON.parse(await text(process.stdin));
const address = pathToFileURL(job.page).href;
const browser = await chromium.launch({ executablePath: job.chromium, args: ["--no-sandbox", "--disable-gpu"] });

/** A page of that width; what it asks for beside itself and what it complains of go into `found`. */
async function open(width, found, options = {}) {
  const context = await browser.newContext({ viewport: { width, height: 900 }, ...options });
  const page = await context.newPage();
  found.requests = [];
  found.complaints = [];
  page.on("request", (request) => {
    if (request.url() !== address && !request.url().startsWith("data:")) found.requests.push(request.url());
  });
  page.on("console", (message) => found.complaints.push(message.text()));
  page.on("pageerror", (error) => found.complaints.push(String(error)));
  await page.goto(address);
  return page;
}

/** How wide the page and its large pictures are, in CSS pixels. */
const layout = (page) =>
  page.evaluate(() => ({
    width: document.documentElement.scrollWidth,
    pictures: [...document.querySelectorAll(".stage .picture")].map((p) => p.getBoundingClientRect().width),
  }));

const covered = (page) =>
  page.evaluate(() => [...document.querySelectorAll(".stage .picture")].map((p) => p.style.getPropertyValue("--cut")));

/** Presses the buttons and moves the slider by the keyboard alone. */
async function played(page, still) {
  const seen = {};
  await page.getByRole("slider").first().focus();
  for (let i = 0; i < 30; i++) await page.keyboard.press("ArrowRight");
  seen.slid = await covered(page);
  const flicker = page.getByRole("button", { name: still ? "Swap" : "Flicker" }).first();
  await flicker.focus();
  await page.keyboard.press("Enter");
  seen.pressed = await flicker.getAttribute("aria-pressed");
  const turns = new Set();
  for (let i = 0; i < 12; i++) {
    turns.add((await covered(page))[1]);
    await page.waitForTimeout(150);
  }
  seen.turns = [...turns].sort();
  await page.keyboard.press("Escape");
  seen.released = await flicker.getAttribute("aria-pressed");
  await page.getByRole("button", { name: "Difference" }).first().press("Enter");
  seen.difference = await page.locator(".stage .difference").count();
  const prompts = () => page.evaluate(() => [...document.querySelectorAll(".prompt, .strips p")].slice(0, 2).map((p) => p.textContent));
  const before = await prompts();
  const button = page.getByRole("button", { name: "look closer" }).first();
  const promised = await page.locator(".strips img").first().getAttribute("src");
  await button.press("Enter");
  seen.swapped = JSON.stringify(await prompts()) === JSON.stringify(before.reverse());
  seen.shown = (await page.locator(".stage img").first().getAttribute("src")) === promised;
  return seen;
}

const found = { dark: {}, phone: {}, desk: {}, still: {} };
try {
  found.dark.layout = await layout(await open(1440, found.dark, { colorScheme: "dark" }));
  found.phone.layout = await layout(await open(390, found.phone));
  found.desk.played = await played(await open(1440, found.desk), false);
  found.still.played = await played(await open(1440, found.still, { reducedMotion: "reduce" }), true);
  for (const [name, options] of Object.entries(job.pictures ?? {})) {
    const page = await open(options.width, {}, { colorScheme: options.colorScheme ?? "light" });
    await page.screenshot({ path: name, fullPage: options.fullPage ?? true });
  }
  console.log(JSON.stringify(found));
} finally {
  await browser.close();
}
