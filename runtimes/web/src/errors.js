/** The runtime's errors, named as the Python runtime names them: their text is one printable line. */

const LONGEST = 300; // characters of a message; what strangers write into a bundle must not fill a screen
const UNPRINTABLE = /[\p{C}\p{Z}]/gu;

/** `text` without line breaks and control characters, cut in its middle where it is too long. */
export function oneLine(text, longest = LONGEST) {
  const line = text.slice(0, 100 * longest).replace(UNPRINTABLE, " ").replace(/ +/g, " ").trim();
  const characters = [...line];
  if (characters.length <= longest) return line;
  const head = characters.slice(0, Math.floor((longest * 2) / 3));
  return `${head.join("")}...${characters.slice(-(Math.floor(longest / 3) - 3)).join("")}`;
}

/** A text as messages show it: ASCII alone, short. */
export function shown(value) {
  if (typeof value === "bigint" || typeof value === "number" || value === null || value === undefined) {
    return String(value).slice(0, 60);
  }
  if (typeof value !== "string") return `a ${Array.isArray(value) ? "list" : typeof value}`;
  const text = JSON.stringify(value.slice(0, 200)).replace(/[^ -~]/g, (c) => `\\u${c.charCodeAt(0).toString(16)}`);
  return text.length <= 60 ? text : `${text.slice(0, 57)}...`;
}

/** Root of the tree: what failed, the offending value, what to do. */
export class QSchedError extends Error {
  constructor(text, options) {
    super(oneLine(String(text)), options);
    this.name = new.target.name;
  }
}

/** The bundle's files or its qsched.json cannot be used. */
export class BundleError extends QSchedError {}

/** A prompt, seed, size, step count or guidance that the bundle cannot serve. */
export class RequestError extends QSchedError {}

/** A device is missing or refuses a graph. */
export class ProviderError extends QSchedError {}

const KINDS = { QSchedError, BundleError, RequestError, ProviderError };

/** What crosses from a worker to its page. */
export function packedError(error) {
  return { name: error?.name ?? "Error", message: String(error?.message ?? error) };
}

/** The error that `packedError` was made of: of this tree, an AbortError, or a plain one. */
export function unpackedError({ name, message }) {
  if (Object.hasOwn(KINDS, name)) return new KINDS[name](message);
  if (name === "AbortError") return new DOMException(message, "AbortError");
  return Object.assign(new Error(message), { name });
}

/** Whatever a library raises over a bundle's content becomes a BundleError of one line. */
export async function asBundleError(what, run) {
  try {
    return await run();
  } catch (error) {
    if (error instanceof QSchedError || error?.name === "AbortError") throw error;
    throw new BundleError(`${what} (${error?.name ?? "Error"}: ${error?.message ?? error}): make the bundle again`, {
      cause: error,
    });
  }
}
