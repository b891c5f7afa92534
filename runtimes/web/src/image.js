/** Pixels and their files: ImageData's form, {data: Uint8ClampedArray RGBA, width, height}, and PNG. */

import { RequestError } from "./errors.js";

const f32 = Math.fround;

/** Decoder output float32 [B, 3, H, W] in -1..1 -> pictures, rounded as diffusers does (halves to even). */
export function toPictures({ data, dims: [batch, , height, width] }) {
  const area = height * width;
  return Array.from({ length: batch }, (_, b) => {
    const pixels = new Uint8ClampedArray(4 * area).fill(255);
    for (let c = 0; c < 3; c++) {
      const from = (3 * b + c) * area;
      for (let i = 0; i < area; i++) pixels[4 * i + c] = level(data[from + i]);
    }
    return { data: pixels, width, height };
  });
}

function level(value) {
  const unit = Math.min(1, Math.max(0, f32(f32(value * 0.5) + 0.5)));
  const scaled = f32(unit * 255);
  const floor = Math.floor(scaled);
  const rest = scaled - floor;
  return rest === 0.5 ? floor + (floor % 2) : floor + (rest > 0.5 ? 1 : 0);
}

/** Pictures of one size, three or four bytes a pixel -> encoder input float32 [B, 3, H, W] in -1..1. */
export function fromPictures(pictures) {
  const [{ width, height }] = pictures;
  const area = width * height;
  const data = new Float32Array(3 * area * pictures.length);
  pictures.forEach((picture, b) => {
    const stride = picture.data.length / area;
    for (let i = 0; i < area; i++) {
      for (let c = 0; c < 3; c++) data[(3 * b + c) * area + i] = f32(f32(picture.data[stride * i + c] / 255) * 2) - 1;
    }
  });
  return { data, dims: [pictures.length, 3, height, width] };
}

/** A picture as an 8-bit RGB PNG: Uint8Array. Everywhere, without a canvas. */
export async function pngBytes({ data, width, height }) {
  if (data?.length !== 4 * width * height) throw new RequestError("pngBytes needs {data: RGBA, width, height}");
  const rows = new Uint8Array(height * (3 * width + 1));
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const from = 4 * (y * width + x);
      rows.set(data.subarray(from, from + 3), y * (3 * width + 1) + 1 + 3 * x);
    }
  }
  const header = new Uint8Array(13);
  const view = new DataView(header.buffer);
  view.setUint32(0, width);
  view.setUint32(4, height);
  header.set([8, 2], 8); // eight bits, RGB
  const packed = new Blob([rows]).stream().pipeThrough(new CompressionStream("deflate"));
  const parts = [chunk("IHDR", header), chunk("IDAT", new Uint8Array(await new Response(packed).arrayBuffer()))];
  const signature = Uint8Array.of(0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a);
  return new Uint8Array(await new Blob([signature, ...parts, chunk("IEND", new Uint8Array())]).arrayBuffer());
}

function chunk(kind, data) {
  const bytes = new Uint8Array(12 + data.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, data.length);
  bytes.set(new TextEncoder().encode(kind), 4);
  bytes.set(data, 8);
  view.setUint32(8 + data.length, crc32(bytes.subarray(4, 8 + data.length)));
  return bytes;
}

function crc32(bytes) {
  let crc = -1;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
  }
  return (crc ^ -1) >>> 0;
}
