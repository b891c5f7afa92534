/** Where a bundle's files come from. A place has
 *
 * `read(path, {bytes, limit, onBytes, signal})`: the file's bytes, BundleError where it is missing or has more than
 * `limit`; `bytes` is the size the manifest states, or undefined; `names()`: all paths, or null where they cannot be
 * listed; `remote`: whether reading costs a download; perhaps `onDisk(path)`, a file that onnxruntime can open itself.
 */

import { BundleError, QSchedError } from "./errors.js";

/** A folder behind a URL. */
export class UrlPlace {
  remote = true;

  constructor(url) {
    const base = new URL(url, globalThis.location?.href);
    if (base.pathname.endsWith("/qsched.json")) base.pathname = base.pathname.slice(0, -"qsched.json".length);
    if (!base.pathname.endsWith("/")) base.pathname += "/";
    this.base = base;
  }

  names() {
    return null;
  }

  async read(path, { limit, bytes, onBytes, signal } = {}) {
    const url = new URL(path.split("/").map(encodeURIComponent).join("/"), this.base);
    url.search = this.base.search;
    const response = await fetched(url, { signal });
    if (!response.ok) throw new BundleError(`${path} cannot be fetched (status ${response.status}): look at its address`);
    return bodyOf(response, path, { limit: Math.min(limit ?? Infinity, bytes ?? Infinity), onBytes });
  }
}

/** fetch, whose failures say what could not be reached. */
export async function fetched(url, options) {
  try {
    return await fetch(url, options);
  } catch (error) {
    if (error?.name === "AbortError" || options.signal?.aborted) throw error;
    throw new BundleError(`${url} cannot be fetched (${error.message}): look at the address and the connection`);
  }
}

/** A response's bytes, no more of them than `limit`, told of as they come. */
export async function bodyOf(response, path, { limit = Infinity, onBytes }) {
  const parts = [];
  let size = 0;
  for (const reader = response.body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) return concatenated(parts, size);
    size += value.length;
    if (size > limit) {
      await reader.cancel();
      throw tooLong(path, limit);
    }
    parts.push(value);
    onBytes?.(value.length);
  }
}

function concatenated(parts, size) {
  if (parts.length === 1) return parts[0];
  const all = new Uint8Array(size);
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

/** Files that were dropped or chosen: a Map of path -> Blob, one folder deep or more, as browsers name them. */
export class FilesPlace {
  remote = false;

  constructor(files) {
    this.files = files;
  }

  names() {
    return [...this.files.keys()];
  }

  async read(path, { limit = Infinity, onBytes, signal } = {}) {
    const blob = this.files.get(path);
    if (!blob) throw missing(path);
    if (blob.size > limit) throw tooLong(path, limit);
    signal?.throwIfAborted();
    const bytes = new Uint8Array(await readable(path, () => blob.arrayBuffer()));
    onBytes?.(bytes.length);
    return bytes;
  }
}

/** What the system says of a file that cannot be read becomes a BundleError. */
export async function readable(path, read) {
  try {
    return await read();
  } catch (error) {
    if (error instanceof QSchedError || error?.name === "AbortError") throw error;
    throw new BundleError(`${path} cannot be read (${error.message}): choose the files again`, { cause: error });
  }
}

/** A list of File -> Map of path -> File, from the folder that holds qsched.json. */
export function filesByPath(files) {
  const found = new Map();
  for (const file of files) found.set(file.path ?? (file.webkitRelativePath || file.name), file.file ?? file);
  const manifest = [...found.keys()].filter((path) => /(^|\/)qsched\.json$/.test(path));
  if (manifest.length !== 1) {
    throw new BundleError(`${manifest.length} files qsched.json among ${found.size}: choose one bundle's folder`);
  }
  const folder = manifest[0].slice(0, -"qsched.json".length);
  const inside = [...found].filter(([path]) => path.startsWith(folder));
  return new Map(inside.map(([path, file]) => [path.slice(folder.length), file]));
}

export function missing(path) {
  return new BundleError(`${path} is missing from the bundle: copy it again`);
}

export function tooLong(path, limit) {
  return new BundleError(`${path} has more than ${limit} bytes: copy the bundle again`);
}
