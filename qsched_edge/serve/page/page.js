/** The page: a form, one or two pictures that form step by step, and what is going on in words. */

import { figure } from "./figure.js";

const at = (id) => document.getElementById(id);
const config = await (await fetch("config.json")).json();
const megabytes = (bytes) => `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB`;
const STAGES = { load: "Loading the networks", "self-test": "Checking that this browser computes as it should" };
const still = matchMedia("(prefers-reduced-motion: reduce)");
let running = null; // AbortController of what is being drawn
let figures = [];

function describe() {
  document.title = config.title;
  at("title").textContent = config.title;
  const facts = [`${config.width} × ${config.height} pixels`, megabytes(config.bundle_bytes), config.license];
  at("facts").textContent = facts.filter(Boolean).join(" · ");
  for (const steps of config.steps) at("steps").add(new Option(steps, steps, false, steps === config.default_steps));
  at("guidance-field").hidden = config.guidance.kind === "none";
  at("guidance").value = config.guidance.default;
  at("negative-field").hidden = config.guidance.kind !== "classifier-free";
  at("where").hidden = !(config.server && config.browser);
  if (config.browser) at("download").textContent = `(${megabytes(config.browser.bytes)} to download, once)`;
  if (!config.server) at("form").elements.where.value = "browser";
}

/** One frame, or the calibrated picture beside the stock schedule's, for the number of steps that is chosen. */
function layOut() {
  const steps = Number(at("steps").value);
  const both = config.calibrated.includes(steps);
  const kinds = both ? [["Calibrated", false], ["Stock schedule", true]] : [["Stock schedule", true]];
  for (const shown of figures) shown.forget();
  figures = kinds.map(([name, stock]) => figure(name, stock, config));
  at("pictures").style.maxWidth = both ? "" : `max(22rem, ${config.width}px)`; // a picture of 64 pixels is no poster
  at("pictures").replaceChildren(...figures.map(({ element }) => element));
  at("about").textContent = about(steps, both);
}

function about(steps, both) {
  if (both) return "Both start from the same noise; the calibrated schedule is the one that the bundle ships with.";
  if (config.calibrated.length) {
    const known = config.calibrated.join(", ");
    return `For ${steps} ${steps === 1 ? "step" : "steps"} this bundle has no calibration of its own (it has one for ${known}): one picture is shown.`;
  }
  return "This bundle is not calibrated, or calibration found nothing better: one picture is shown, by the stock schedule.";
}

function say(text, share = null) {
  if (at("status").textContent !== text) at("status").textContent = text;
  at("progress").hidden = share === null;
  if (share !== null) at("progress").value = share;
}

function complain(text) {
  at("error").hidden = !text;
  at("error").textContent = text;
}

/** What drawing tells, as words and a bar; `i` of `count` pictures is being drawn. */
function teller(shown, i, count) {
  return (told) => {
    const which = count > 1 ? `${shown.name}: ` : "";
    if (told.notice) {
      at("notice").hidden = false;
      at("notice").textContent = told.notice;
    } else if (told.ahead) say(`Waiting: ${told.ahead} ${told.ahead === 1 ? "request is" : "requests are"} drawn before yours`, 0);
    else if (told.total) say(`Downloading ${megabytes(told.total)}`, told.loaded / told.total);
    else if (told.stage) say(STAGES[told.stage] ?? "Drawing", 1);
    else if (told.preview) shown.preview(told.preview);
    else say(`${which}step ${told.step + 1} of ${told.steps}`, (i + (told.step + 1) / told.steps) / count);
  };
}

function asked() {
  const { prompt, negative, seed, steps, guidance, where } = at("form").elements;
  return {
    prompt: prompt.value,
    negative: at("negative-field").hidden ? "" : negative.value,
    seed: Number(seed.value),
    steps: Number(steps.value),
    guidance: guidance.value === "" ? config.guidance.default : Number(guidance.value),
    where: where.value,
  };
}

async function draw() {
  layOut();
  const wanted = asked();
  running = new AbortController();
  busy(true);
  complain("");
  at("notice").hidden = true;
  say("Starting", 0);
  at("pictures").scrollIntoView({ block: "nearest", behavior: still.matches ? "auto" : "smooth" });
  try {
    const way = await import(wanted.where === "browser" ? "./browser.js" : "./server.js");
    for (const [i, shown] of figures.entries()) {
      const started = performance.now();
      shown.start();
      const options = { on: teller(shown, i, figures.length), signal: running.signal, webgpu: config.browser?.webgpu };
      const picture = await way.draw({ ...wanted, stock: shown.stock }, options);
      shown.finish(picture, wanted, (performance.now() - started) / 1000);
    }
    say(figures.length > 1 ? "Both pictures are drawn" : "The picture is drawn");
  } catch (error) {
    for (const shown of figures) shown.stop();
    say(running.signal.aborted ? "Cancelled" : "");
    if (!running.signal.aborted) complain(error.message);
  }
  busy(false);
  running = null;
}

function busy(yes) {
  at("draw").disabled = yes;
  at("cancel").disabled = !yes;
  at("steps").disabled = yes;
}

/** On a static host without the headers that threads need a service worker adds them, from the next load on: the page
 * loads itself again at once, unless somebody has begun to type. */
async function isolate() {
  if (config.server || crossOriginIsolated || !navigator.serviceWorker) return;
  try {
    await navigator.serviceWorker.register("isolate.js");
    await navigator.serviceWorker.ready;
  } catch {
    return; // one thread then
  }
  const again = !sessionStorage.getItem("isolated") && !at("prompt").value && !running;
  sessionStorage.setItem("isolated", "yes");
  if (again) location.reload();
}

describe();
layOut();
isolate();
at("steps").addEventListener("change", layOut);
at("another").addEventListener("click", () => {
  at("seed").value = crypto.getRandomValues(new Uint32Array(1))[0];
});
at("cancel").addEventListener("click", () => running?.abort());
at("form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!running) draw();
});
at("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    at("form").requestSubmit();
  }
});
at("prompt").focus();
