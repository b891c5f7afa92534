// tests/vectors: the numbers that every runtime reproduces.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { gunzipSync } from "node:zlib";

import { guidanceEmbedding, readTokenizer, Schedule, TorchNoise } from "../src/core.js";
import { SCHEMA } from "../src/data.js";
import { KEYWORDS } from "../src/schema.js";
import { scaled, shifted } from "../src/schedule.js";

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

test("a schedule that shifts with the size, within 1e-9", () => {
  const { schedule: table, at } = vectors("shift.json");
  for (const [latents, expected] of Object.entries(at)) {
    const found = shifted(table, Number(latents));
    for (const name of ["timesteps", "a", "b", "c", "start_x0", "start_noise"]) {
      const error = Math.max(...expected[name].map((value, i) => Math.abs(value - found[name][i]) / (1 + Math.abs(value))));
      assert.ok(error < 1e-9, `${name} at ${latents}: ${error}`);
    }
  }
  assert.equal(shifted(table, 4096), table);
});

test("the guidance embedding, within 1e-3", () => {
  for (const { guidance_scale: scale, width, values } of vectors("guidance_embedding.json")) {
    const found = guidanceEmbedding(scale, width);
    assert.equal(found.length, values.length);
    const error = Math.max(...values.map((value, i) => Math.abs(value - found[i])));
    assert.ok(error < 1e-3, `${scale} at ${width}: ${error}`);
  }
});

/** Keywords of a schema and of those within it. */
function* keywords(schema) {
  const maps = ["properties", "$defs"];
  const lists = ["anyOf"];
  const single = ["items", "additionalProperties", "propertyNames"];
  for (const [key, value] of Object.entries(schema)) {
    yield key;
    const inner = maps.includes(key) ? Object.values(value) : lists.includes(key) ? value : single.includes(key) ? [value] : [];
    for (const one of inner) if (typeof one === "object") yield* keywords(one);
  }
}

test("every keyword of the schema is one that is checked", () => {
  const notes = ["$schema", "title", "description", "$defs"];
  for (const keyword of keywords(SCHEMA)) assert.ok(KEYWORDS.has(keyword) || notes.includes(keyword), keyword);
});
