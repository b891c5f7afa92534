// Opens bundles that must be refused, and prints how: for the tests that make them.
// {folder, cases: [{name, files: {PATH: BASE64}}], folders: [{name, path}]} -> {NAME: {kind, message}}

import { readdir, readFile } from "node:fs/promises";
import { join, relative } from "node:path";
import { text } from "node:stream/consumers";

import { Bundle, loadOptions } from "../src/load.js";
import { Sampler } from "../src/node.js";
import { filesByPath, FilesPlace } from "../src/places.js";

const job = JSON.parse(await text(process.stdin));
const entries = await readdir(job.folder, { recursive: true, withFileTypes: true });
const paths = entries.filter((entry) => entry.isFile()).map((entry) => join(entry.parentPath ?? entry.path, entry.name));
const good = new Map();
for (const path of paths) good.set(relative(job.folder, path), new Blob([await readFile(path)]));

async function outcome(open) {
  const started = performance.now();
  try {
    await open();
    return { kind: "none", message: "it was opened", seconds: 0 };
  } catch (error) {
    return { kind: error.name, message: error.message, seconds: (performance.now() - started) / 1000 };
  }
}

const results = { good: await outcome(() => opened(good)) };
for (const { name, files } of job.cases) {
  const changed = new Map(good);
  for (const [path, data] of Object.entries(files)) changed.set(path, new Blob([Buffer.from(data, "base64")]));
  results[name] = await outcome(() => opened(changed));
}
for (const { name, path } of job.folders) results[name] = await outcome(() => Sampler.load(path));
console.log(JSON.stringify(results));

async function opened(files) {
  const place = new FilesPlace(filesByPath([...files].map(([path, file]) => ({ path, file }))));
  await Bundle.open(place, loadOptions({}));
}
