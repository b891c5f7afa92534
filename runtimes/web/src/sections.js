/** Ranges of a packed file: of a Blob, or of one behind a URL. `read(start, end, {onBytes, signal})`. */

import { BundleError } from "./errors.js";
import { bodyOf, fetched, readable } from "./places.js";

/** A Blob's ranges: a file that was dropped, or one that was downloaded whole. */
export class BlobSections {
  constructor(blob) {
    this.blob = blob;
    this.size = blob.size;
  }

  async read(start, end, { onBytes } = {}) {
    const bytes = new Uint8Array(await readable("the packed bundle", () => this.blob.slice(start, end).arrayBuffer()));
    onBytes?.(bytes.length);
    return bytes;
  }
}

/** The ranges of a file behind a URL; where the server gives none, the file is downloaded whole. */
export async function urlSections(url, { signal, onBytes } = {}) {
  const response = await fetched(url, { headers: { Range: "bytes=0-0" }, signal });
  if (!response.ok) throw new BundleError(`${url} cannot be fetched (status ${response.status}): look at its address`);
  const size = Number(/\/(\d+)$/.exec(response.headers.get("Content-Range") ?? "")?.[1]);
  if (response.status === 206 && size > 0) {
    await response.body.cancel();
    return new UrlSections(url, size);
  }
  return new BlobSections(new Blob([await bodyOf(response, url, { onBytes })]));
}

class UrlSections {
  constructor(url, size) {
    Object.assign(this, { url, size });
  }

  async read(start, end, { onBytes, signal } = {}) {
    if (start === end) return new Uint8Array();
    const response = await fetched(this.url, { headers: { Range: `bytes=${start}-${end - 1}` }, signal });
    if (response.status !== 206) {
      await response.body?.cancel();
      throw new BundleError(`${this.url} gave status ${response.status} for a range: the server has changed the file`);
    }
    return bodyOf(response, this.url, { limit: end - start, onBytes });
  }
}
