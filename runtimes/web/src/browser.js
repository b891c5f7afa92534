/** The runtime in a page: a Sampler whose work is done in a Web Worker. index.d.ts documents it. */

import { CACHE } from "./browser-places.js";
import { RequestError, unpackedError } from "./errors.js";
import { loadOptions } from "./load.js";

export { BundleError, ProviderError, QSchedError, RequestError } from "./errors.js";
export { pngBytes } from "./image.js";

const HOOKS = ["onProgress", "onNotice", "onStep"];

/** Draws pictures from a bundle in a worker of its own. */
export class Sampler {
  static async load(source, options = {}) {
    const asked = loadOptions(options, { cache: true, ort: null });
    const worker = new Caller(new Worker(new URL("./worker.js", import.meta.url), { type: "module" }));
    const abort = () => worker.end(asked.signal.reason); // at once, whatever the worker is busy with
    asked.signal?.addEventListener("abort", abort);
    try {
      const ort = asked.ort && new URL(asked.ort, location.href).href;
      const found = await worker.call("load", { source: sendable(source), options: { ...asked, ort } });
      return new Sampler(worker, found);
    } catch (error) {
      worker.end();
      throw error;
    } finally {
      asked.signal?.removeEventListener("abort", abort);
    }
  }

  constructor(worker, { device, manifest }) {
    Object.assign(this, { worker, device, manifest });
  }

  draw(prompt, options = {}) {
    return this.worker.call("draw", { prompt, options });
  }

  leftOut(prompt) {
    return this.worker.call("leftOut", { prompt });
  }

  /** Ends the worker and gives back its memory. */
  async close() {
    this.worker.end();
  }
}

/** What a worker can be sent of a source: an absolute address, a Blob, or [{path, file}]. */
function sendable(source) {
  if (typeof source === "string" || source instanceof URL) return new URL(source, location.href).href;
  if (source instanceof Blob || source === null || typeof source !== "object") return source;
  return Array.from(source, (file) => (file.file ? file : { path: file.webkitRelativePath || file.name, file }));
}

/** Calls of a worker: each has a number, callbacks stay on this side, an AbortSignal is passed on. */
class Caller {
  constructor(worker) {
    Object.assign(this, { worker, calls: new Map(), next: 0, ended: false });
    worker.onmessage = ({ data }) => this.answered(data);
    worker.onerror = (event) => this.fail(new Error(event.message || "the worker cannot be started"));
  }

  call(call, { options = {}, ...more }) {
    if (this.ended) return Promise.reject(new RequestError("this sampler is closed: load it again"));
    const id = this.next++;
    const { signal, ...rest } = options;
    const given = HOOKS.filter((name) => typeof rest[name] === "function");
    const functions = Object.fromEntries(given.map((name) => [name, rest[name]]));
    for (const name of given) delete rest[name];
    return new Promise((resolve, reject) => {
      if (signal?.aborted) return reject(signal.reason);
      const abort = () => this.worker.postMessage({ id, call: "abort" });
      const settled = () => signal?.removeEventListener("abort", abort);
      this.calls.set(id, { resolve, reject, functions, signal, settled });
      signal?.addEventListener("abort", abort);
      this.worker.postMessage({ id, call, options: rest, hooks: given, ...more });
    });
  }

  async answered({ id, told, result, error }) {
    const call = this.calls.get(id);
    if (!call) return;
    if (told) return this.tell(id, call, told);
    this.forget(id, call);
    if (call.signal?.aborted) call.reject(call.signal.reason); // it may have come when all was done already
    else if (error) call.reject(unpackedError(error));
    else call.resolve(result);
  }

  async tell(id, call, [name, value]) {
    try {
      const answer = await call.functions[name](value);
      if (name === "onStep") this.worker.postMessage({ id, call: "goOn", answer: answer === true });
    } catch (error) {
      this.forget(id, call);
      this.worker.postMessage({ id, call: "abort" });
      if (name === "onStep") this.worker.postMessage({ id, call: "goOn", answer: true });
      call.reject(error);
    }
  }

  forget(id, call) {
    this.calls.delete(id);
    call.settled();
  }

  fail(error) {
    for (const [id, call] of this.calls) {
      this.forget(id, call);
      call.reject(error);
    }
  }

  end(reason = new RequestError("this sampler is closed: load it again")) {
    this.ended = true;
    this.worker.terminate();
    this.fail(reason);
  }
}

/** The files of a drop, folders walked: give them to Sampler.load. Call it within the drop's event. */
export async function droppedFiles(dataTransfer) {
  const entries = Array.from(dataTransfer.items, (item) => item.webkitGetAsEntry()).filter(Boolean);
  const found = [];
  for (const entry of entries) await walk(entry, entry.name, found);
  return found;
}

async function walk(entry, path, found) {
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
    found.push({ path, file });
    return;
  }
  const reader = entry.createReader();
  for (;;) {
    const batch = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!batch.length) return;
    for (const inside of batch) await walk(inside, `${path}/${inside.name}`, found);
  }
}

/** Throws away every download that the browser has kept for this site. */
export function forgetDownloads() {
  return caches.delete(CACHE);
}
