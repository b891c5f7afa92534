// What npm would publish, and that the type declarations name what the modules export.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

import * as browser from "../src/browser.js";
import * as core from "../src/core.js";
import * as node from "../src/node.js";

const PACKAGE = fileURLToPath(new URL("../", import.meta.url));
const PAGE_ONLY = ["droppedFiles", "forgetDownloads"];
const read = (path) => readFileSync(PACKAGE + path, "utf-8");

/** Names of values that a declaration file exports. */
function declared(path) {
  const text = read(path);
  const own = [...text.matchAll(/^export declare (?:class|function) (\w+)/gm)].map(([, name]) => name);
  const handed = [...text.matchAll(/^export \{([^}]+)\} from/gm)].flatMap(([, names]) => names.split(",").map((name) => name.trim()));
  return [...own, ...handed].sort();
}

test("declarations and modules have the same names", () => {
  assert.deepEqual(declared("src/index.d.ts"), Object.keys(browser).sort());
  assert.deepEqual(declared("src/core.d.ts"), Object.keys(core).sort());
  assert.deepEqual([...Object.keys(node), ...PAGE_ONLY].sort(), Object.keys(browser).sort());
});

test("the types of an app that uses everything", () => {
  execFileSync(process.execPath, ["node_modules/typescript/bin/tsc", "--noEmit"], { cwd: PACKAGE, stdio: "inherit" });
});

test("npm packs the sources, their types and the licence, and nothing else", () => {
  const [{ files }] = JSON.parse(execFileSync("npm", ["pack", "--dry-run", "--json", "--silent"], { cwd: PACKAGE, encoding: "utf-8" }));
  assert.equal(read("LICENSE"), read("../../LICENSE"));
  const paths = files.map(({ path }) => path);
  assert.deepEqual(paths.filter((path) => !/^src\/[\w-]+(\.d\.ts|\.js)$/.test(path)).sort(), ["LICENSE", "README.md", "package.json"]);
  const { exports } = JSON.parse(read("package.json"));
  const targets = Object.values(exports).flatMap((target) => (typeof target === "string" ? target : Object.values(target)));
  for (const target of targets) assert.ok(paths.includes(target.replace("./", "")), target);
});
