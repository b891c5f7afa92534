/** Where a page's bundles come from: URLs, dropped files, packed files; downloads are kept by their SHA-256. */

import { BundleError, shown } from "./errors.js";
import { filesByPath, FilesPlace, UrlPlace } from "./places.js";
import { BlobSections, urlSections } from "./sections.js";
import { sha256 } from "./selftest.js";
import { ZipPlace } from "./zip.js";

export const CACHE = "qsched-bundles";

/** The place of a URL (text), of a Blob that is a packed bundle, or of [{path, file}]. */
export async function placeOf(source, options) {
  if (source instanceof Blob) return ZipPlace.open(new BlobSections(source));
  if (Array.isArray(source)) return new FilesPlace(filesByPath(source));
  if (typeof source !== "string") throw new BundleError(`${shown(source)} is no bundle: give a URL or files`);
  const packed = /\.(zip|qsched)$/i.test(new URL(source).pathname);
  const place = packed ? await ZipPlace.open(await urlSections(source, options), { remote: true }) : new UrlPlace(source);
  return options.cache && globalThis.caches ? new KeptPlace(place, options.onNotice) : place;
}

/** A remote place whose files of known SHA-256 are looked for in Cache Storage first; what is found there is checked
 * as a download is, and thrown away where it has changed. */
class KeptPlace {
  remote = true;

  constructor(place, onNotice) {
    Object.assign(this, { place, onNotice });
  }

  names() {
    return this.place.names();
  }

  async read(path, options) {
    if (!options.sha256) return this.place.read(path, options);
    const key = new URL(`/qsched-bundles/${options.sha256}`, location.origin).href;
    const kept = await this.kept(key, options);
    if (kept) return kept;
    const bytes = await this.place.read(path, options);
    if ((await sha256(bytes)) === options.sha256) await this.keep(key, bytes);
    return bytes;
  }

  async kept(key, { sha256: expected, onBytes }) {
    const found = await (await caches.open(CACHE)).match(key);
    const bytes = found && new Uint8Array(await found.arrayBuffer());
    if (!bytes || (await sha256(bytes)) !== expected) return null;
    onBytes?.(bytes.length);
    return bytes;
  }

  async keep(key, bytes) {
    try {
      await (await caches.open(CACHE)).put(key, new Response(bytes));
    } catch (error) {
      this.onNotice?.(`the browser does not keep this download (${error.message}): it will be fetched again`);
    }
  }
}
