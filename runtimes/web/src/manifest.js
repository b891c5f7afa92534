/** qsched.json: parsed, held to its schema, checked for what no schema says. The only file a runtime must parse. */

import { SCHEMA } from "./data.js";
import { BundleError, shown } from "./errors.js";
import { MalformedError, MANIFEST_LIMITS, parseJson } from "./json.js";
import { ALGORITHM } from "./noise.js";
import { checkDistinct, checkPath } from "./paths.js";
import { MOST_PIXELS } from "./request.js";
import { checkSchedule } from "./schedule.js";
import { checkSchema } from "./schema.js";

export const NAME = "qsched.json";
const FORMAT = "qsched-bundle";
const VERSIONS = [1, 2, 3]; // 2: a schedule has a bias; 3: one shifts with the size, or a tokenizer is "bpe"
const MOST_ZEROS = 2 ** 20; // values of an input that is always zero

/** The manifest of qsched.json's bytes; BundleError with the reason if it is foreign or malformed.
 *
 * The document as it stands, with `listed`: a Map of path -> {path, bytes, sha256}.
 */
export function readManifest(bytes) {
  const raw = parseJson(bytes, MANIFEST_LIMITS, NAME);
  if (raw?.format !== FORMAT || !VERSIONS.includes(raw?.version)) {
    const found = `${shown(raw?.format)} ${shown(raw?.version)}`;
    throw new BundleError(`${NAME} is ${found}, this runtime reads ${FORMAT} ${VERSIONS}: use a matching runtime`);
  }
  try {
    checkSchema(raw, SCHEMA);
  } catch (error) {
    if (!(error instanceof MalformedError)) throw error;
    throw new BundleError(`${NAME} is malformed (${error.message}): make the bundle again`, { cause: error });
  }
  if (raw.noise.algorithm !== ALGORITHM) {
    throw new BundleError(`noise algorithm ${shown(raw.noise.algorithm)} is unknown: this runtime has ${ALGORITHM}`);
  }
  const manifest = { ...raw, listed: new Map(raw.files.map((file) => [file.path, file])) };
  for (const check of [checkFiles, checkNames, checkSources, checkLatents, checkSchedules]) check(manifest);
  return manifest;
}

function checkFiles(manifest) {
  const paths = manifest.files.map((file) => file.path);
  paths.forEach(checkPath);
  checkDistinct([NAME, ...paths]);
  for (const { file } of [...Object.values(manifest.components), ...Object.values(manifest.tokenizers)]) {
    checkPath(file);
    if (!manifest.listed.has(file)) {
      throw new BundleError(`${shown(file)} is used but not listed with size and SHA-256: make the bundle again`);
    }
  }
}

function checkNames(manifest) {
  for (const role of ["backbone", "decoder", "encoder"]) {
    const name = manifest[role];
    if (name !== null && !Object.hasOwn(manifest.components, name)) {
      throw new BundleError(`the ${role} ${shown(name)} is none of the components: make the bundle again`);
    }
  }
  for (const [name, tokenizer] of Object.entries(manifest.tokenizers)) {
    if (tokenizer.kind === "clip" && tokenizer.bos_id < 0) {
      throw new BundleError(`${name} has the bos_id ${tokenizer.bos_id}: make the bundle again`);
    }
  }
  if (!Object.hasOwn(manifest.schedules, String(manifest.default_steps))) {
    throw new BundleError(`there is no schedule for the default of ${manifest.default_steps} steps: make it again`);
  }
}

/** Whether a component reads text. */
export function readsText(component) {
  return Object.values(component.inputs).some((source) => source.tokenizer !== undefined);
}

/** What an input reads exists: tokenizers, and outputs of components that stand before and read text. */
function checkSources(manifest) {
  const outputs = new Set();
  for (const [name, component] of Object.entries(manifest.components)) {
    for (const source of Object.values(component.inputs)) checkSource(source, manifest, outputs, name);
    if (readsText(component)) component.outputs.forEach((output) => outputs.add(`${name}.${output}`));
  }
}

function checkSource(source, manifest, outputs, where) {
  for (const name of [source.tokenizer, source.attention_mask]) {
    if (name !== undefined && !Object.hasOwn(manifest.tokenizers, name)) {
      throw new BundleError(`${where} reads the tokenizer ${shown(name)}, which is not there`);
    }
  }
  for (const name of source.outputs ?? []) {
    if (!outputs.has(name)) {
      throw new BundleError(`${where} reads the source ${shown(name)}, which no text encoder before it gives`);
    }
  }
  if ((source.zeros ?? []).reduce((all, side) => all * side, 1) > MOST_ZEROS) {
    throw new BundleError(`${where} reads zeros of shape ${source.zeros}: more than any network needs`);
  }
}

function checkLatents({ latents }) {
  if (latents.height * latents.width * latents.pixels_per_latent ** 2 > MOST_PIXELS) {
    const sides = `${latents.height} x ${latents.width}`;
    throw new BundleError(`latents of ${sides} are larger than any picture: make the bundle again`);
  }
  for (const side of latents.patch ? [latents.height, latents.width, latents.multiple_of] : []) {
    if (side % latents.patch) {
      throw new BundleError(`latents' side ${side} is no multiple of the patch ${latents.patch}: make the bundle again`);
    }
  }
}

function checkSchedules(manifest) {
  for (const [steps, table] of Object.entries(manifest.schedules)) {
    checkSchedule(table, Number(steps), manifest.latents.channels);
  }
}
