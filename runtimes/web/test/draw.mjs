// Draws what a job on standard input asks for and prints what was drawn, for the tests that compare with Python.
// {device, threads, bundles: [{name, path, prompt, options}]} -> {NAME: {noise, ids, pictures, ...}}

import { createHash } from "node:crypto";
import { text } from "node:stream/consumers";

import { TorchNoise } from "../src/noise.js";
import { Sampler } from "../src/node.js";

const job = JSON.parse(await text(process.stdin));
const results = {};
for (const { name, path, prompt, options } of job.bundles) {
  const started = performance.now();
  const sampler = await Sampler.load(path, { device: job.device, threads: job.threads });
  const output = await sampler.draw(prompt, options);
  const values = new TorchNoise(options.seed).randn(4096);
  results[name] = {
    noise: createHash("sha256").update(new Uint8Array(values.buffer)).digest("hex"),
    ids: Object.fromEntries(Object.entries(sampler.engine.tokenizers).map(([key, t]) => [key, t.ids([prompt].flat()[0])])),
    pictures: output.images.map((image) => Buffer.from(image.data).toString("base64")),
    sides: output.images.map(({ width, height }) => [width, height]),
    seconds: (performance.now() - started) / 1000,
  };
  await sampler.close();
}
console.log(JSON.stringify(results));
