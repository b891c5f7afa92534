// tests/vectors: the numbers that every runtime reproduces.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { gunzipSync } from "node:zlib";

import { guidanceEmbedding, readTokenizer, Schedule, TorchNoise } from "../src/core.js";
import { scaled } from "../src/schedule.js";

const ROOT = new URL("../../../", import.meta.url);
const read = (path) => readFileSync(new URL(path, ROOT));
const vectors = (name) => JSON.parse(read(`tests/vectors/${name}`));
const sha256 = (values) => createHash("sha256").update(new Uint8Array(values.buffer)).digest("hex");

for (const { seed, counts, sha256: expected, first } of vectors("noise.json")) {
  test(`noise of seed ${seed}`, () => {
    const stream = new TorchNoise(BigInt(seed));
    const values = Float32Array.from(counts.flatMap((count) => [...stream.randn(count)]));
    assert.deepEqual([...values.subarray(0, 4)], first);
    assert.equal(sha256(values), expected);
  });
}

/** The vector's tokenizer: its tokenizer.json, with other added tokens where it names some. */
function tokenizerOf({ tokenizer, added_tokens: added, spec }) {
  const bytes = tokenizer.endsWith(".gz") ? gunzipSync(read(tokenizer)) : read(tokenizer);
  const data = JSON.parse(bytes);
  return readTokenizer(new TextEncoder().encode(JSON.stringify({ ...data, ...(added && { added_tokens: added }) })), spec);
}

for (const vector of vectors("tokenizers.json")) {
  test(`token ids: ${vector.spec.kind}, ${vector.name}`, () => {
    const tokenizer = tokenizerOf(vector);
    for (const [text, ids] of vector.ids) assert.deepEqual(tokenizer.ids(text), ids, JSON.stringify(text));
  });
}

test("steps in float32, in the order of docs/bundle.md", () => {
  const { schedule: table, shape, steps, start } = vectors("schedule.json");
  const schedule = new Schedule(table);
  const [x, e, z] = [1, 2, 3].map((seed) => new TorchNoise(seed).randn(shape.reduce((a, b) => a * b)));
  assert.equal(sha256(scaled(x, table.init_noise_sigma)), start);
  steps.forEach((expected, i) => {
    const drawn = schedule.drawsNoise(i) ? z : null;
    const next = schedule.step(x, e, drawn, i, shape);
    assert.equal(sha256(schedule.scaleModelInput(x, i)), expected.model_input);
    assert.equal(sha256(schedule.noised(x, z, i)), expected.noised);
    assert.equal(sha256(next), expected.step);
    assert.equal(sha256(schedule.estimate(x, drawn, next, i, shape)), expected.estimate);
  });
});

test("the guidance embedding, within 1e-3", () => {
  for (const { guidance_scale: scale, width, values } of vectors("guidance_embedding.json")) {
    const found = guidanceEmbedding(scale, width);
    assert.equal(found.length, values.length);
    const error = Math.max(...values.map((value, i) => Math.abs(value - found[i])));
    assert.ok(error < 1e-3, `${scale} at ${width}: ${error}`);
  }
});
