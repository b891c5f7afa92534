/** What a caller may ask for: each argument is held to its type and its range, or is a RequestError that names it. */

import { RequestError, shown } from "./errors.js";

export const MOST_PICTURES = 256; // in one call
export const MOST_PIXELS = 2 ** 26; // of all pictures of one call
const LONGEST_PROMPT = 10_000; // characters; the longest text encoder reads 512 tokens
const SEEDS = [-(2n ** 63n), 2n ** 64n - 1n]; // what torch's generator takes

/** A text or several -> a list; RequestError for what is no text, is empty, too long or no Unicode. */
export function texts(name, value) {
  const found = typeof value === "string" ? [value] : value;
  if (!Array.isArray(found)) throw new RequestError(`${name} is ${shown(value)}: give a text or a list of texts`);
  if (!(found.length > 0 && found.length <= MOST_PICTURES)) {
    throw new RequestError(`${found.length} texts as ${name}: give 1 to ${MOST_PICTURES}`);
  }
  for (const text of found) {
    if (typeof text !== "string") throw new RequestError(`${name} holds ${shown(text)}: give text`);
    const length = [...text].length;
    if (length > LONGEST_PROMPT) {
      throw new RequestError(`${name} has ${length} characters: give ${LONGEST_PROMPT} at most`);
    }
    if (!text.isWellFormed()) throw new RequestError(`${name} holds half of a surrogate pair: give Unicode text`);
  }
  return found;
}

/** RequestError unless `value` is a whole number of low..high. */
export function integer(name, value, low, high) {
  if (!Number.isInteger(value)) throw new RequestError(`${name} is ${shown(value)}: give a whole number`);
  if (value < low || value > high) {
    throw new RequestError(`${name} ${shown(value)} is out of range: use ${low} to ${high}`);
  }
  return value;
}

/** RequestError unless `value` is a finite number of low..high. */
export function number(name, value, low, high) {
  if (typeof value !== "number") throw new RequestError(`${name} is ${shown(value)}: give a number`);
  if (!(value >= low && value <= high)) {
    throw new RequestError(`${name} ${shown(value)} is out of range: use ${low} to ${high}`);
  }
  return value;
}

/** One seed for all, or one for each picture, as bigints; null draws one of 0..2^32 - 1. */
export function seedsOf(seed, batch) {
  if (seed === null) return [BigInt(crypto.getRandomValues(new Uint32Array(1))[0])];
  const found = Array.isArray(seed) ? seed : [seed];
  if (found.length !== 1 && found.length !== batch) {
    throw new RequestError(`${found.length} seeds for ${batch} prompts: give one, or one for each`);
  }
  return found.map(seedOf);
}

function seedOf(seed) {
  if (typeof seed !== "bigint" && !Number.isSafeInteger(seed)) {
    throw new RequestError(`seed is ${shown(seed)}: give a whole number (a bigint beyond 2^53)`);
  }
  const value = BigInt(seed);
  if (value < SEEDS[0] || value > SEEDS[1]) {
    throw new RequestError(`seed ${shown(value)} is out of range: use -2^63 to 2^64 - 1`);
  }
  return value;
}

/** RequestError for more pixels in one call than memory is likely to hold. */
export function checkRoom(pictures, height, width) {
  if (pictures * height * width > MOST_PIXELS) {
    throw new RequestError(`${pictures} pictures of ${height} x ${width} pixels are too many at once: ask for fewer`);
  }
}

/** Where sampling starts from a picture; a fraction of a step is taken or, as most families do, left out. */
export function firstStep(steps, strength, roundsUp) {
  const share = number("strength", strength, 0, 1);
  const first = roundsUp ? Math.floor(steps - steps * share) : steps - Math.floor(steps * share);
  if (first >= steps) throw new RequestError(`strength ${share} leaves no step of ${steps}: use ${1 / steps} to 1`);
  return first;
}

/** A picture as pixels, [{data, width, height}]: ImageData's form, or three bytes for each pixel. */
export function picturesOf(image, batch, streams) {
  const found = Array.isArray(image) ? image : [image];
  found.forEach(checkPicture);
  const same = found.every((one) => one.width === found[0].width && one.height === found[0].height);
  if (!same || (found.length !== 1 && found.length !== batch)) {
    throw new RequestError(`${found.length} pictures as image: give one, or ${batch} of one size`);
  }
  return found.length === batch || streams === 1 ? found : Array(batch).fill(found[0]);
}

function checkPicture(image) {
  const bytes = image?.data instanceof Uint8Array || image?.data instanceof Uint8ClampedArray;
  if (!bytes) throw new RequestError(`image is ${shown(image)}: give {data, width, height}, such as ImageData`);
  const [height, width] = ["height", "width"].map((side) => integer(`image ${side}`, image[side], 1, MOST_PIXELS));
  if (![3, 4].includes(image.data.length / (width * height))) {
    throw new RequestError(`image has ${image.data.length} bytes for ${width} x ${height}: give 3 or 4 for each pixel`);
  }
}
