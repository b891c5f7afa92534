// Loads one bundle in every way that there is in Node and prints what came of each, for the tests.
// {folder, zip, packed: [{name, path}]} -> {NAME: SHA-256 of a picture, or the error's name}

import { createHash } from "node:crypto";
import { readdir, readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { join, relative } from "node:path";
import { text } from "node:stream/consumers";

import { Sampler } from "../src/node.js";

const job = JSON.parse(await text(process.stdin));

const server = createServer(async (request, response) => {
  const path = decodeURIComponent(new URL(request.url, "http://localhost").pathname);
  const ranged = path.startsWith("/ranges/");
  const data = await readFile(path.endsWith(".zip") ? job.zip : join(job.folder, path)).catch(() => null);
  if (!data) return response.writeHead(404).end();
  const [, start, end] = /bytes=(\d+)-(\d+)/.exec((ranged && request.headers.range) || "") ?? [];
  if (start === undefined) return response.writeHead(200).end(data);
  const part = data.subarray(Number(start), Number(end) + 1);
  response.writeHead(206, { "Content-Range": `bytes ${start}-${end}/${data.length}` }).end(part);
});
await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
const address = `http://127.0.0.1:${server.address().port}`;

async function files() {
  const entries = await readdir(job.folder, { recursive: true, withFileTypes: true });
  const paths = entries.filter((entry) => entry.isFile()).map((entry) => join(entry.parentPath ?? entry.path, entry.name));
  const read = async (path) => ({ path: `dropped/${relative(job.folder, path)}`, file: new Blob([await readFile(path)]) });
  return Promise.all(paths.map(read));
}

async function drawn(source, load = {}, draw = {}) {
  try {
    const sampler = await Sampler.load(source, { threads: 1, ...load });
    const { images } = await sampler.draw("a red apple", { seed: 5, ...draw });
    await sampler.close();
    return createHash("sha256").update(images[0].data).digest("hex");
  } catch (error) {
    return error.name;
  }
}

const controller = new AbortController();
const results = {
  folder: await drawn(job.folder),
  packed: await drawn(job.zip),
  blob: await drawn(new Blob([await readFile(job.zip)])),
  files: await drawn(await files()),
  "folder by URL": await drawn(`${address}/`),
  "packed by URL": await drawn(`${address}/bundle.zip`),
  "packed by URL, in ranges": await drawn(`${address}/ranges/bundle.zip`),
  "aborted while loading": await drawn(job.folder, { signal: AbortSignal.abort() }),
  "aborted while drawing": await drawn(job.folder, {}, { signal: controller.signal, onStep: () => controller.abort() }),
  nothing: await drawn(`${address}/elsewhere/`),
  "an unknown option": await drawn(job.folder, { speed: 2 }),
};
for (const { name, path } of job.packed) results[name] = await drawn(path);
console.log(JSON.stringify(results));
server.close();
