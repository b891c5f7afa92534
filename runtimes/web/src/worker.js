/** The worker that loads and draws, so that the page never freezes. It answers {id, call, ...} by {id, result|error}
 * and tells on the way {id, told: [name, value]}; "step" waits for the page's {id, goOn}. */

import { packedError, ProviderError, shown } from "./errors.js";
import { Bundle, firstThatWorks, loadEngine } from "./load.js";
import { placeOf } from "./browser-places.js";

let engine = null;
const running = new Map(); // id -> AbortController
const waiting = new Map(); // id -> resolve of a step's answer

const CALLS = {
  async load(id, { source, options, hooks, signal }) {
    const asked = { ...options, ...hooks, signal };
    const bundle = await Bundle.open(await placeOf(source, asked), asked);
    const { engine: loaded, device } = await firstThatWorks(await backends(asked), asked, (backend) =>
      loadEngine(bundle, backend, asked),
    );
    bundle.forget();
    engine = loaded;
    return { device, manifest: loaded.manifest };
  },
  draw(id, { prompt, options, hooks, signal }) {
    return engine.draw(prompt, { ...options, ...hooks, signal });
  },
  leftOut(id, { prompt }) {
    return engine.leftOut(prompt);
  },
  close() {
    return engine?.close();
  },
};

self.onmessage = async ({ data }) => {
  const { id, call } = data;
  if (call === "abort") return running.get(id)?.abort();
  if (call === "goOn") return waiting.get(id)?.(data.answer);
  const controller = new AbortController();
  running.set(id, controller);
  try {
    const hooks = hooksOf(id, data.hooks ?? []);
    const result = await CALLS[call](id, { ...data, hooks, signal: controller.signal });
    self.postMessage({ id, result });
  } catch (error) {
    self.postMessage({ id, error: packedError(error) });
  } finally {
    running.delete(id);
    waiting.delete(id);
  }
};

/** Callbacks that the page has given, as functions that tell it. */
function hooksOf(id, names) {
  const tell = (name) => (value) => self.postMessage({ id, told: [name, value] });
  const hooks = Object.fromEntries(names.map((name) => [name, tell(name)]));
  if (hooks.onStep) {
    hooks.onStep = (step) => {
      const answer = new Promise((resolve) => waiting.set(id, resolve));
      tell("onStep")(step);
      return answer;
    };
  }
  return hooks;
}

/** What to try, in this order. "auto" is WebGPU where there is an adapter, then WASM. */
async function backends({ device, threads, ort, onNotice }) {
  const wanted = device === "auto" ? ["webgpu", "wasm"] : [device];
  if (!wanted.every((name) => name === "webgpu" || name === "wasm")) {
    throw new ProviderError(`device ${shown(device)} is unknown here: use auto, webgpu or wasm`);
  }
  const lacking = wanted.includes("webgpu") ? await lackingAdapter(device) : null;
  if (lacking) {
    if (device === "webgpu") throw new ProviderError(`${lacking}: use wasm, or auto`);
    onNotice?.(`${lacking}: wasm is used`);
    wanted.shift();
  }
  const module = await imported(wanted[0], ort);
  module.env.wasm.numThreads = threads ?? (self.crossOriginIsolated ? navigator.hardwareConcurrency : 1);
  return wanted.map((name) => ({ ort: module, provider: name, device: name, fromDisk: false }));
}

/** What keeps WebGPU from being used, or null. A software adapter is slower than WASM: only who asks for it gets it. */
async function lackingAdapter(device) {
  const adapter = await navigator.gpu?.requestAdapter().catch(() => null);
  if (!adapter) return "there is no WebGPU adapter here";
  const software = adapter.info?.isFallbackAdapter ?? adapter.isFallbackAdapter;
  return software && device === "auto" ? "the WebGPU adapter here is a software one" : null;
}

/** onnxruntime-web's entry for a device: a bundler finds it by its name, `ort` is the address of its dist folder.
 * The entry for WebGPU holds WASM too. */
async function imported(device, ort) {
  try {
    if (!ort) return await (device === "webgpu" ? import("onnxruntime-web/webgpu") : import("onnxruntime-web/wasm"));
    const module = await import(/* @vite-ignore */ /* webpackIgnore: true */ `${ort}ort.${device}.min.mjs`);
    module.env.wasm.wasmPaths = ort;
    return module;
  } catch (error) {
    throw new ProviderError(`onnxruntime-web cannot be imported (${error.message}): npm install it, or give its address as ort`);
  }
}
