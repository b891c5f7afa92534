/** A packed bundle: one zip file whose entries are stored, never compressed, so that each is a range of its bytes. */

import { BundleError, shown } from "./errors.js";
import { checkDistinct, checkPath } from "./paths.js";
import { missing, tooLong } from "./places.js";

const END = 0x06054b50; // signatures
const END64 = 0x06064b50;
const LOCATOR64 = 0x07064b50;
const CENTRAL = 0x02014b50;
const LOCAL = 0x04034b50;
const [END_SIZE, LOCATOR_SIZE, END64_SIZE, CENTRAL_SIZE, LOCAL_SIZE] = [22, 20, 56, 46, 30];
const LONGEST_COMMENT = 65_535;
const MOST_FILES = 2_000;
const LARGEST_DIRECTORY = 4 * 2 ** 20; // bytes
const ENCRYPTED = 1;
const FULL = 0xffffffff; // 32 bits that say: look into the zip64 field

/** The place of a packed bundle; `source`: {size, read(start, end) -> Uint8Array}. */
export class ZipPlace {
  static async open(source, { remote = false } = {}) {
    const { start, size, count } = await findDirectory(source);
    if (count > MOST_FILES || size > LARGEST_DIRECTORY) throw new BundleError("the packed bundle lists too many files");
    const entries = readDirectory(await exactly(source, start, start + size), count, source.size);
    checkDistinct(entries.keys());
    checkApart(entries, start);
    return new ZipPlace(source, entries, remote);
  }

  constructor(source, entries, remote) {
    Object.assign(this, { source, entries, remote });
  }

  names() {
    return [...this.entries.keys()];
  }

  async read(path, { limit = Infinity, onBytes, signal } = {}) {
    const entry = this.entries.get(path);
    if (!entry) throw missing(path);
    if (entry.size > limit) throw tooLong(path, limit);
    signal?.throwIfAborted();
    const start = await this.dataStart(entry, path);
    const bytes = await exactly(this.source, start, start + entry.size, { onBytes, signal });
    return bytes;
  }

  /** Where an entry's bytes begin: behind its own header, whose padding aligns them. */
  async dataStart(entry, path) {
    const name = new TextEncoder().encode(path);
    const header = await exactly(this.source, entry.offset, entry.offset + LOCAL_SIZE + name.length);
    const view = viewOf(header);
    const stored = view.getUint32(0, true) === LOCAL && view.getUint16(8, true) === 0 && !(view.getUint16(6, true) & ENCRYPTED);
    const same = view.getUint16(26, true) === name.length && name.every((byte, i) => byte === header[LOCAL_SIZE + i]);
    if (!stored || !same) {
      throw new BundleError(`${path} is not stored as its packed bundle lists it: pack the bundle again`);
    }
    return entry.offset + LOCAL_SIZE + view.getUint16(26, true) + view.getUint16(28, true);
  }
}

/** BundleError for files that share bytes with each other or with their list, which begins at `start`. */
function checkApart(entries, start) {
  let before = 0;
  for (const [name, { offset, size }] of [...entries].sort(([, a], [, b]) => a.offset - b.offset)) {
    const end = offset + LOCAL_SIZE + new TextEncoder().encode(name).length + size;
    if (offset < before || end > start) throw damaged(`${shown(name)} shares bytes with another file`);
    before = end;
  }
}

function viewOf(bytes) {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

async function exactly(source, start, end, more) {
  if (!(start >= 0 && start <= end && end <= source.size)) throw damaged("its list leads out of the file");
  const bytes = await source.read(start, end, more);
  if (bytes.length !== end - start) throw damaged("it is cut short");
  return bytes;
}

function damaged(why) {
  return new BundleError(`this is no packed bundle (${why}): pack the bundle again`);
}

/** {start, size, count} of the list of files at the end. */
async function findDirectory(source) {
  const from = Math.max(0, source.size - END_SIZE - LONGEST_COMMENT - LOCATOR_SIZE);
  const tail = viewOf(await exactly(source, from, source.size));
  for (let at = tail.byteLength - END_SIZE; at >= 0; at--) {
    if (tail.getUint32(at, true) !== END || tail.getUint16(at + 20, true) !== tail.byteLength - at - END_SIZE) continue;
    const found = { count: tail.getUint16(at + 10, true), size: tail.getUint32(at + 12, true), start: tail.getUint32(at + 16, true) };
    const large = found.count === 0xffff || found.size === FULL || found.start === FULL;
    return large ? findDirectory64(source, tail, at - LOCATOR_SIZE) : found;
  }
  throw damaged("it has no list of files");
}

async function findDirectory64(source, tail, at) {
  if (at < 0 || tail.getUint32(at, true) !== LOCATOR64) throw damaged("its list of files is not where it says");
  const start = number64(tail, at + 8);
  const view = viewOf(await exactly(source, start, start + END64_SIZE));
  if (view.getUint32(0, true) !== END64) throw damaged("its list of files is not where it says");
  return { count: number64(view, 32), size: number64(view, 40), start: number64(view, 48) };
}

function number64(view, at) {
  return Number(view.getBigUint64(at, true));
}

/** Map of path -> {size, offset}; BundleError for what is compressed, encrypted or no plain file. */
function readDirectory(bytes, count, fileSize) {
  const view = viewOf(bytes);
  const entries = new Map();
  let at = 0;
  for (let i = 0; i < count; i++) {
    if (at + CENTRAL_SIZE > bytes.length || view.getUint32(at, true) !== CENTRAL) throw damaged("its list is damaged");
    const lengths = [28, 30, 32].map((field) => view.getUint16(at + field, true)); // of name, extra field, comment
    const end = at + CENTRAL_SIZE + lengths[0] + lengths[1] + lengths[2];
    if (end > bytes.length) throw damaged("its list is damaged");
    const name = nameOf(bytes.subarray(at + CENTRAL_SIZE, at + CENTRAL_SIZE + lengths[0]));
    const entry = readEntry(view, at, lengths, name);
    if (entry.offset + LOCAL_SIZE + entry.size > fileSize) throw damaged(`${shown(name)} ends beyond it`);
    if (entries.has(name)) throw damaged(`${shown(name)} stands twice`);
    if (!name.endsWith("/")) entries.set(checkPath(name), entry);
    at = end;
  }
  return entries;
}

function nameOf(bytes) {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    throw damaged("a name is no text");
  }
}

function readEntry(view, at, [nameLength, extraLength], name) {
  const [flags, method] = [view.getUint16(at + 8, true), view.getUint16(at + 10, true)];
  const packed = view.getUint32(at + 20, true);
  const entry = { size: view.getUint32(at + 24, true), offset: view.getUint32(at + 42, true) };
  if (method !== 0 || flags & ENCRYPTED || packed !== entry.size) {
    throw new BundleError(`${shown(name)} is compressed or encrypted: a packed bundle stores its files as they are`);
  }
  const extra = at + CENTRAL_SIZE + nameLength;
  return withExtra64(view, extra, extra + extraLength, entry);
}

/** The entry with its zip64 field's numbers, in the order of what is FULL: size, packed size, offset. */
function withExtra64(view, at, end, { size, offset }) {
  if (size !== FULL && offset !== FULL) return { size, offset };
  for (; at + 4 <= end; at += 4 + view.getUint16(at + 2, true)) {
    if (view.getUint16(at, true) !== 1) continue;
    const wanted = 8 * ((size === FULL ? 2 : 0) + (offset === FULL ? 1 : 0));
    if (view.getUint16(at + 2, true) < wanted || at + 4 + wanted > end) break;
    const both = size === FULL && number64(view, at + 4) !== number64(view, at + 12);
    if (both) throw damaged("an entry's two sizes differ");
    return {
      size: size === FULL ? number64(view, at + 4) : size,
      offset: offset === FULL ? number64(view, at + 4 + (size === FULL ? 16 : 0)) : offset,
    };
  }
  throw damaged("a large file lacks its size");
}
