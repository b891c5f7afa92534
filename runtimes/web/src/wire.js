/** The outer structure of an ONNX file, read without a protobuf library. */

/** The bytes are no protobuf message, or one that no bundle holds. */
export class WireError extends Error {}

/** The fields of the message in data[start..end): {number, value, start, end}; WireError where they do not fill it.
 *
 * `value` is that of a number, else -1n and the bytes start to end hold it.
 */
export function* fields(data, start, end) {
  let i = start;
  while (i < end) {
    const [tag, after] = varint(data, i, end);
    const number = Number(tag >> 3n);
    const kind = Number(tag & 7n);
    i = after;
    if (kind === 0) {
      const [value, next] = varint(data, i, end);
      i = next;
      yield { number, value, start: i, end: i };
      continue;
    }
    let size = kind === 1 ? 8 : 4;
    if (kind === 2) {
      const [length, next] = varint(data, i, end);
      [size, i] = [Number(length), next];
    } else if (kind !== 1 && kind !== 5) throw new WireError(`wire type ${kind}`);
    if (size > end - i) throw new WireError(`a field of ${size} bytes, ${end - i} are left`);
    yield { number, value: -1n, start: i, end: i + size };
    i += size;
  }
}

/** [the number that begins at byte i, where the next one begins]. */
function varint(data, i, end) {
  if (i < end && data[i] < 128) return [SMALL[data[i]], i + 1]; // nearly all of them
  let value = 0n;
  for (let shift = 0n; i < end && shift < 70n; shift += 7n) {
    const byte = data[i++];
    value |= BigInt(byte & 127) << shift;
    if (byte < 128) return [BigInt.asUintN(64, value), i];
  }
  throw new WireError("a number without an end");
}

const SMALL = Array.from({ length: 128 }, (_, i) => BigInt(i));

/** The fields of the message that a field holds; WireError if it is a number. */
export function inner(data, field) {
  if (field.value !== -1n) throw new WireError(`field ${field.number} is a number, not a message`);
  return fields(data, field.start, field.end);
}

/** A field's text; WireError if it is none, or of a kilobyte. */
export function text(data, field) {
  if (field.value !== -1n || field.end - field.start > 1000) throw new WireError(`field ${field.number} is no name`);
  try {
    return DECODER.decode(data.subarray(field.start, field.end));
  } catch {
    throw new WireError(`field ${field.number} is no text`);
  }
}

const DECODER = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** Signed integers of a repeated field: one, or packed. Beyond 2^53 they are near enough for limits. */
export function numbers(data, field) {
  if (field.value !== -1n) return [signed(field.value)];
  const found = [];
  for (let i = field.start; i < field.end; ) {
    const [value, next] = varint(data, i, field.end);
    found.push(signed(value));
    i = next;
  }
  return found;
}

function signed(value) {
  return Number(BigInt.asIntN(64, value));
}

/** The same fields; WireError where one of the `single` stands twice, which parsers merge, each in its own way. */
export function* once(found, single) {
  const seen = new Set();
  for (const field of found) {
    if (single.includes(field.number)) {
      if (seen.has(field.number)) throw new WireError(`field ${field.number} stands twice`);
      seen.add(field.number);
    }
    yield field;
  }
}
