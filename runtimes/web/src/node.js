/** The runtime in Node: bundles from folders, packed files and URLs, drawn by onnxruntime-node (or WASM). */

import { createHash } from "node:crypto";
import { createReadStream, constants } from "node:fs";
import { lstat, open, readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

import { BundleError, ProviderError, shown } from "./errors.js";
import { Bundle, loadEngine, loadOptions } from "./load.js";
import { checkPath } from "./paths.js";
import { filesByPath, FilesPlace, missing, tooLong, UrlPlace } from "./places.js";
import { BlobSections, urlSections } from "./sections.js";
import { ZipPlace } from "./zip.js";

export { BundleError, ProviderError, QSchedError, RequestError } from "./errors.js";
export { pngBytes } from "./image.js";

/** device -> onnxruntime-node's provider; "wasm" is onnxruntime-web's, which needs no binary. */
const DEVICES = { cpu: "cpu", cuda: "cuda", coreml: "coreml", directml: "dml", webgpu: "webgpu", wasm: "wasm" };
const DEEPEST = 16;
const MOST_NAMES = 10_000;

/** Draws pictures from a bundle; index.d.ts documents it. */
export class Sampler {
  static async load(source, options = {}) {
    const asked = loadOptions(options);
    const device = asked.device === "auto" ? "cpu" : asked.device;
    if (!Object.hasOwn(DEVICES, device)) {
      throw new ProviderError(`device ${shown(device)} is unknown: use one of ${Object.keys(DEVICES).join(", ")}`);
    }
    const bundle = await Bundle.open(await placeOf(source, asked), asked);
    const engine = await loadEngine(bundle, await backendOf(device, asked.threads), asked);
    bundle.forget();
    return new Sampler(engine, device);
  }

  constructor(engine, device) {
    Object.assign(this, { engine, device, manifest: engine.manifest });
  }

  async draw(prompt, options) {
    return this.engine.draw(prompt, options);
  }

  async leftOut(prompt) {
    return this.engine.leftOut(prompt);
  }

  async close() {
    await this.engine.close();
  }
}

async function backendOf(device, threads) {
  process.env.ORT_DISABLE_TELEMETRY ??= "1"; // onnxruntime reports home from version 1.31 on unless this is set first
  const wasm = device === "wasm";
  const ort = await imported(wasm ? "onnxruntime-web/wasm" : "onnxruntime-node");
  if (wasm) ort.env.wasm.numThreads = threads ?? 1;
  return { ort, provider: DEVICES[device], fromDisk: !wasm };
}

async function imported(name) {
  try {
    return await import(name);
  } catch (error) {
    const said = `${name} cannot be imported (${error.message}): npm install ${name.split("/")[0]}`;
    throw new ProviderError(said, { cause: error });
  }
}

/** The place that a source names: a folder, a packed file, a URL, or a list of files. */
async function placeOf(source, options) {
  if (source instanceof Blob) return ZipPlace.open(new BlobSections(source));
  if (source !== null && typeof source === "object" && Symbol.iterator in source) return new FilesPlace(filesByPath(source));
  if (typeof source !== "string" && !(source instanceof URL)) {
    throw new BundleError(`${shown(source)} is no bundle: give a folder, a packed file, a URL or a list of files`);
  }
  const url = urlOf(source);
  if (url && /^https?:$/.test(url.protocol)) {
    return isPacked(url.pathname) ? ZipPlace.open(await urlSections(url, options), { remote: true }) : new UrlPlace(url);
  }
  const path = url ? fileURLToPath(url) : source;
  const found = await stat(path).catch((error) => {
    throw new BundleError(`no bundle can be read at ${path} (${error.code}): qsched-edge export makes one`, { cause: error });
  });
  return found.isDirectory() ? FolderPlace.open(path) : ZipPlace.open(new FileSections(path, found.size));
}

function unopened(path, error) {
  return new BundleError(`${path} cannot be opened (${error.code}): copy the bundle again`, { cause: error });
}

function urlOf(source) {
  if (source instanceof URL) return source;
  return /^(https?|file):\/\//.test(source) ? new URL(source) : null;
}

/** Whether an address names a packed bundle rather than a folder. */
function isPacked(path) {
  return /\.(zip|qsched)$/i.test(path);
}

/** A folder of plain files; nothing on the way to one is a link. */
class FolderPlace {
  remote = false;

  static async open(folder) {
    return new FolderPlace(folder, await namesIn(folder));
  }

  constructor(folder, listed) {
    Object.assign(this, { folder, listed });
  }

  names() {
    return this.listed;
  }

  onDisk(path) {
    return join(this.folder, ...checkPath(path).split("/"));
  }

  async read(path, { limit = Infinity, onBytes } = {}) {
    const handle = await this.opened(path);
    try {
      if ((await handle.stat()).size > limit) throw tooLong(path, limit);
      const bytes = await handle.readFile();
      if (bytes.length > limit) throw tooLong(path, limit);
      onBytes?.(bytes.length);
      return new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.length);
    } finally {
      await handle.close();
    }
  }

  /** The SHA-256 of a listed file, read in parts. */
  async sha256({ path, bytes }, onBytes) {
    const handle = await this.opened(path);
    const { size } = await handle.stat();
    if (size !== bytes) {
      await handle.close();
      throw new BundleError(`${path} has ${size} bytes instead of ${bytes}: copy the bundle again`);
    }
    const digest = createHash("sha256");
    for await (const part of createReadStream("", { fd: handle, highWaterMark: 2 ** 20 })) {
      digest.update(part);
      onBytes(part.length);
    }
    return digest.digest("hex");
  }

  /** The file, opened without following links; BundleError where it is missing or no plain file of one name. */
  async opened(path) {
    let at = this.folder;
    for (const part of checkPath(path).split("/")) {
      at = join(at, part);
      const found = await lstat(at).catch((error) => {
        throw error.code === "ENOENT" ? missing(path) : unopened(path, error);
      });
      if (found.isSymbolicLink()) throw new BundleError(`${path} is a symbolic link: refused; a bundle holds plain files`);
      if (at === this.onDisk(path)) checkPlain(found, path);
    }
    try {
      return await open(at, constants.O_RDONLY | (constants.O_NOFOLLOW ?? 0));
    } catch (error) {
      throw unopened(path, error);
    }
  }
}

function checkPlain(found, path) {
  if (!found.isFile()) throw new BundleError(`${path} is no plain file: refused`);
  if (found.nlink > 1) throw new BundleError(`${path} is a hard link: refused; copy the bundle, so that its files are its own`);
}

async function namesIn(folder, prefix = "", depth = 0) {
  if (depth > DEEPEST) throw new BundleError("the bundle's folders are nested too deeply: refused");
  const found = [];
  for (const entry of await readdir(join(folder, prefix), { withFileTypes: true })) {
    const name = `${prefix}${entry.name}`;
    if (entry.isDirectory()) found.push(...(await namesIn(folder, `${name}/`, depth + 1)));
    else found.push(name);
    if (found.length > MOST_NAMES) throw new BundleError(`the bundle's folder has more than ${MOST_NAMES} files: refused`);
  }
  return found;
}

/** Ranges of a packed file on disk. */
class FileSections {
  constructor(path, size) {
    Object.assign(this, { path, size });
  }

  async read(start, end, { onBytes } = {}) {
    const handle = await open(this.path);
    try {
      const bytes = new Uint8Array(end - start);
      let filled = 0;
      for (let bytesRead = 1; bytesRead && filled < bytes.length; filled += bytesRead) {
        const length = Math.min(bytes.length - filled, 2 ** 30); // a single read takes less than 2 GiB
        ({ bytesRead } = await handle.read(bytes, filled, length, start + filled));
        onBytes?.(bytesRead);
      }
      return bytes.subarray(0, filled);
    } finally {
      await handle.close();
    }
  }
}
