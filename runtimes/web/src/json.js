/** JSON from a stranger: limits before it is parsed, no key twice, no number beyond float64, no broken Unicode. */

import { BundleError, shown } from "./errors.js";

const DEEPEST = 40;

/** Most bytes, most arrays and objects, most commas: what parsing takes in memory is bounded by them. */
export const MANIFEST_LIMITS = { bytes: 4 * 2 ** 20, nests: 200_000, commas: 600_000 };
export const TOKENIZER_LIMITS = { bytes: 32 * 2 ** 20, nests: 1_000_000, commas: 3_000_000 };

/** What is wrong, and where in the document. */
export class MalformedError extends Error {}

/** The value of UTF-8 bytes; BundleError for what is no JSON, is too much of it, or says a thing twice. */
export function parseJson(bytes, limits, where) {
  try {
    checkAmount(bytes, limits);
    const text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
    checkStructure(text);
    const value = JSON.parse(text);
    checkValues(value);
    return value;
  } catch (error) {
    const said = `${where} is malformed (${error.name}: ${error.message}): make the bundle again`;
    throw new BundleError(said, { cause: error });
  }
}

function checkAmount(bytes, limits) {
  let [commas, nests] = [0, 0];
  for (const byte of bytes.length > limits.bytes ? [] : bytes) {
    if (byte === 0x2c) commas++;
    else if (byte === 0x5b || byte === 0x7b) nests++;
  }
  if (bytes.length > limits.bytes || commas > limits.commas) {
    throw new MalformedError("it is larger than any bundle needs");
  }
  if (nests > limits.nests) throw new MalformedError("it has more arrays and objects than any bundle needs");
}

/** MalformedError for keys that stand twice in one object and for deep nesting; JSON.parse finds what is no JSON. */
function checkStructure(text) {
  const open = []; // for each object its keys so far, for each array null
  let [start, end] = [0, 0]; // of the last text
  for (let i = 0; i < text.length; i++) {
    const c = text[i];
    if (c === '"') {
      [start, end] = [i, endOfText(text, i)];
      i = end - 1;
    } else if (c === "{" || c === "[") {
      open.push(c === "{" ? new Set() : null);
      if (open.length > DEEPEST) throw new MalformedError(`it is nested more than ${DEEPEST} deep`);
    } else if (c === "}" || c === "]") open.pop();
    else if (c === ":" && open.at(-1)) addKey(open.at(-1), text.slice(start, end));
  }
}

/** Where the text that begins with the quote at `start` ends, quote included. */
function endOfText(text, start) {
  for (let i = start + 1; ; i++) {
    i = text.indexOf('"', i);
    if (i < 0) throw new MalformedError("a text without an end");
    let slashes = 0;
    while (text[i - 1 - slashes] === "\\") slashes++;
    if (slashes % 2 === 0) return i + 1;
  }
}

function addKey(keys, token) {
  const key = JSON.parse(token);
  if (keys.has(key)) throw new MalformedError(`the key ${shown(key)} stands twice`);
  keys.add(key);
}

function checkValues(root) {
  const waiting = [root];
  while (waiting.length) {
    const value = waiting.pop();
    if (typeof value === "number" && !Number.isFinite(value)) {
      throw new MalformedError("a number is larger than float64 holds");
    }
    if (typeof value === "string" && !value.isWellFormed()) {
      throw new MalformedError("a text holds half of a surrogate pair");
    }
    if (Array.isArray(value)) for (const item of value) waiting.push(item);
    else if (value && typeof value === "object") {
      for (const [key, item] of Object.entries(value)) waiting.push(key, item);
    }
  }
}
