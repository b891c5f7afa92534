/** Reads, checks and loads a bundle: sizes and hashes first, then what no schema says, then onnxruntime. */

import { asBundleError, BundleError, ProviderError, QSchedError, RequestError, shown } from "./errors.js";
import { inspectGraph, LARGEST_GRAPH } from "./inspection.js";
import { MANIFEST_LIMITS, TOKENIZER_LIMITS } from "./json.js";
import { NAME, readManifest } from "./manifest.js";
import { folderOf } from "./paths.js";
import { Engine } from "./sampler.js";
import { GOLDEN, selfTest, sha256 } from "./selftest.js";
import { openGraph } from "./sessions.js";
import { readTokenizer } from "./tokenize.js";

const DEFAULTS = { memory: "low", threads: null, trust: "listed", selfTest: true, onProgress: null, signal: null };

/** An Engine of the bundle in `place`.
 *
 * `backend`: {ort, provider, fromDisk}; `options`: {memory, threads, trust, selfTest, onProgress, onNotice, signal}.
 */
export async function loadEngine(bundle, backend, options) {
  const { onProgress, signal } = options;
  const graphs = {};
  const components = Object.entries(bundle.manifest.components);
  try {
    for (const [i, [name, component]] of components.entries()) {
      signal?.throwIfAborted();
      onProgress?.({ stage: "load", file: component.file, loaded: i, total: components.length });
      graphs[name] = await openGraph(backend.ort, component.file, await bundle.model(component.file, backend), {
        ...options,
        provider: backend.provider,
      });
    }
    const engine = new Engine(bundle.manifest, graphs, bundle.tokenizers);
    await tested(bundle, engine, options);
    signal?.throwIfAborted();
    onProgress?.({ stage: "ready", loaded: components.length, total: components.length });
    return engine;
  } catch (error) {
    for (const graph of Object.values(graphs)) await graph.release();
    throw error;
  }
}

async function tested(bundle, engine, { selfTest: wanted, onProgress, onNotice, signal }) {
  if (!wanted) return;
  if (!bundle.manifest.listed.has(GOLDEN)) {
    onNotice?.(`this bundle has no ${GOLDEN}: nothing tells whether this machine computes what its exporter did`);
    return;
  }
  signal?.throwIfAborted();
  onProgress?.({ stage: "self-test", loaded: 0, total: 1 });
  const bytes = await bundle.bytes(GOLDEN, MANIFEST_LIMITS.bytes);
  await asBundleError("the self-test cannot be run", () => selfTest(bytes, engine));
}

/** The options of `load`, held to their names and values. */
export function loadOptions(options, more = {}) {
  const defaults = { ...DEFAULTS, device: "auto", onNotice: null, ...more };
  const unknown = Object.keys(options).find((key) => !Object.hasOwn(defaults, key));
  if (unknown) throw new RequestError(`${shown(unknown)} is no option of load: use ${Object.keys(defaults).join(", ")}`);
  const given = Object.entries(options).filter(([, value]) => value !== undefined);
  const asked = { ...defaults, ...Object.fromEntries(given) };
  if (!["listed", "any"].includes(asked.trust)) {
    throw new RequestError(`trust is ${shown(asked.trust)}: use "listed", or "any" for graphs of your own`);
  }
  if (asked.threads !== null && !(Number.isInteger(asked.threads) && asked.threads > 0)) {
    throw new ProviderError(`threads is ${shown(asked.threads)}: give a whole number from 1 on`);
  }
  return asked;
}

/** A bundle whose files have been checked; what is used of it is in memory, or on disk where the place says so. */
export class Bundle {
  /** Checks all that can be checked without onnxruntime; downloads what sampling needs, or hashes all that is near. */
  static async open(place, { trust, onProgress, signal }) {
    const manifest = readManifest(await place.read(NAME, { limit: MANIFEST_LIMITS.bytes, signal }));
    const bundle = new Bundle(place, manifest, { onProgress, signal });
    bundle.checkStrays();
    await bundle.readGraphs(trust === "any");
    await bundle.readTokenizers();
    if (manifest.listed.has(GOLDEN)) await bundle.bytes(GOLDEN, MANIFEST_LIMITS.bytes);
    if (!place.remote) await bundle.checkRest();
    return bundle;
  }

  constructor(place, manifest, { onProgress, signal }) {
    Object.assign(this, { place, manifest, onProgress, signal, kept: new Map(), checked: new Set(), tokenizers: {} });
    this.loaded = 0;
    this.total = manifest.files.filter((file) => !place.remote || this.isUsed(file.path)).reduce((all, f) => all + f.bytes, 0);
    this.dataFiles = new Map(); // graph -> names of its data files
  }

  /** Whether sampling may need the file: a tokenizer's, the self-test or what lies beside a graph, but for notes. */
  isUsed(path) {
    const { components, tokenizers } = this.manifest;
    const graphs = Object.values(components).map((component) => component.file);
    const beside = graphs.some((graph) => folderOf(graph) === folderOf(path)) && !/\.(json|md|txt)$/.test(path);
    return beside || path === GOLDEN || Object.values(tokenizers).some(({ file }) => file === path);
  }

  checkStrays() {
    const stray = this.place.names()?.find((name) => name !== NAME && !this.manifest.listed.has(name) && !isLitter(name));
    if (stray) throw new BundleError(`${shown(stray)} is in the bundle but not in ${NAME}: remove it`);
  }

  /** A listed file's bytes, once they have the stated size and SHA-256. */
  async bytes(path, limit = Infinity) {
    if (this.kept.has(path)) return this.kept.get(path);
    const file = this.manifest.listed.get(path);
    if (file.bytes > limit) throw new BundleError(`${path} has more than ${limit} bytes, which no bundle needs: refused`);
    const told = (count) => this.tell(path, count);
    const bytes = await this.place.read(path, { ...file, limit: file.bytes, onBytes: told, signal: this.signal });
    if (bytes.length !== file.bytes) {
      throw new BundleError(`${path} has ${bytes.length} bytes instead of ${file.bytes}: copy the bundle again`);
    }
    this.checkDigest(file, await sha256(bytes));
    this.kept.set(path, bytes);
    return bytes;
  }

  checkDigest(file, found) {
    if (found !== file.sha256) {
      throw new BundleError(`${file.path} does not have the SHA-256 ${file.sha256.slice(0, 12)}…: copy the bundle again`);
    }
    this.checked.add(file.path);
  }

  tell(file, count) {
    this.loaded += count;
    const { loaded, total } = this;
    this.onProgress?.({ stage: this.place.remote ? "download" : "read", file, loaded: Math.min(loaded, total), total });
  }

  /** Every graph is one that a bundle may hold, with the inputs and outputs that the manifest says. */
  async readGraphs(trusted) {
    const sizes = new Map(this.manifest.files.map((file) => [file.path, file.bytes]));
    for (const component of Object.values(this.manifest.components)) {
      const data = await this.bytes(component.file, LARGEST_GRAPH);
      const found = inspectGraph(data, component.file, sizes, trusted);
      const given = found.inputs.filter((name) => !found.tensors.has(name)).sort();
      if (given.join("\n") !== Object.keys(component.inputs).sort().join("\n") || !same(found.outputs, component.outputs)) {
        throw new BundleError(`${component.file} has other inputs or outputs than ${NAME} says: make it again`);
      }
      this.dataFiles.set(component.file, [...new Set(found.places.map((place) => place.name))]);
    }
  }

  async readTokenizers() {
    for (const [name, spec] of Object.entries(this.manifest.tokenizers)) {
      this.tokenizers[name] = readTokenizer(await this.bytes(spec.file, TOKENIZER_LIMITS.bytes), spec);
    }
  }

  /** Hashes what has not been read yet. */
  async checkRest() {
    for (const file of this.manifest.files.filter(({ path }) => !this.checked.has(path))) {
      this.signal?.throwIfAborted();
      if (this.place.sha256) this.checkDigest(file, await this.place.sha256(file, (n) => this.tell(file.path, n)));
      else await this.bytes(file.path);
    }
  }

  /** What onnxruntime opens for a graph: bytes, or a path where both it and the place can. */
  async model(path, { fromDisk }) {
    if (fromDisk && this.place.onDisk) return { graph: this.place.onDisk(path), data: [] };
    const data = [];
    for (const name of this.dataFiles.get(path)) data.push({ path: name, data: await this.bytes(folderOf(path) + name) });
    return { graph: await this.bytes(path), data };
  }

  /** Lets the bytes go, once no session will be opened any more. */
  forget() {
    this.kept.clear();
  }
}

function same(found, expected) {
  return found.length === expected.length && found.every((name, i) => name === expected[i]);
}

/** What file managers leave in folders; it is never read. */
function isLitter(name) {
  return /(^|\/)(\.DS_Store|Thumbs\.db|desktop\.ini)$/.test(name);
}

/** Loads with the first backend that works; each that does not is told of. */
export async function firstThatWorks(backends, options, load) {
  for (const [i, backend] of backends.entries()) {
    try {
      return { engine: await load(backend), device: backend.device };
    } catch (error) {
      const mayBeDevice = error instanceof QSchedError && !(error instanceof RequestError);
      if (i === backends.length - 1 || !mayBeDevice) throw error;
      options.onNotice?.(`${backend.device} does not work here (${error.message}): ${backends[i + 1].device} is used`);
    }
  }
  throw new ProviderError("no device was named");
}
