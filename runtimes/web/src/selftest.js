/** selftest/golden.json: numbers that every runtime reproduces, of the noise, the tokenizers and one network pass. */

import { BundleError } from "./errors.js";
import { MANIFEST_LIMITS, parseJson } from "./json.js";
import { TorchNoise } from "./noise.js";

export const GOLDEN = "selftest/golden.json";
const NOISE = 16_384; // values that are hashed
const SMALL = 128; // pixels of the self-test's picture
const TOLERANCE = 1e-3; // of the network's output
const SHA256 = /^[0-9a-f]{64}$/;

/** BundleError where `engine` does not reproduce the golden file of these bytes. */
export async function selfTest(bytes, engine) {
  const golden = parseJson(bytes, MANIFEST_LIMITS, GOLDEN);
  checkForm(golden);
  const noise = await sha256(new Uint8Array(new TorchNoise(golden.seed).randn(NOISE).buffer));
  if (noise !== golden.noise_sha256) {
    throw new BundleError(`self-test: the noise's SHA-256 is ${noise} instead of ${golden.noise_sha256} here`);
  }
  for (const [name, tokenizer] of Object.entries(engine.tokenizers)) {
    const ids = tokenizer.ids(golden.prompt);
    if (ids.join() !== [golden.token_ids[name]].flat().join()) {
      throw new BundleError(`self-test: ${name} gives the ids ${ids} instead of ${golden.token_ids[name]} here`);
    }
  }
  if (golden.network_output) await checkNetwork(golden, engine);
}

function checkForm(golden) {
  const numbers = golden?.network_output ?? [0];
  const fits =
    typeof golden?.prompt === "string" &&
    Number.isSafeInteger(golden.seed) &&
    SHA256.test(golden.noise_sha256) &&
    typeof golden.token_ids === "object" &&
    golden.token_ids !== null &&
    Array.isArray(numbers) &&
    numbers.length > 0 &&
    numbers.length <= 16 &&
    numbers.every((value) => typeof value === "number");
  if (!fits) throw new BundleError(`${GOLDEN} is malformed: make the bundle again`);
}

async function checkNetwork({ prompt, seed, network_output: expected }, engine) {
  const side = smallSide(engine.manifest.latents);
  const conditioning = await engine.condition([prompt], { height: side, width: side });
  const steps = engine.trajectory(conditioning, engine.schedule(null), [new TorchNoise(seed)]);
  const { e } = (await steps.next()).value;
  const error = Math.max(...expected.map((value, i) => Math.abs(value - e[i])));
  if (!(error <= TOLERANCE)) {
    const said = `self-test: the network's output differs by ${error.toExponential(1)} from the exporter's here`;
    throw new BundleError(said);
  }
}

/** Pixels: a self-test should not cost more for models of large pictures. */
function smallSide(latents) {
  const grid = latents.pixels_per_latent * latents.multiple_of;
  return Math.min(latents.height * latents.pixels_per_latent, Math.ceil(SMALL / grid) * grid);
}

/** The SHA-256 of bytes, in hex. */
export async function sha256(bytes) {
  if (!globalThis.crypto?.subtle) {
    throw new BundleError("this page has no WebCrypto, so nothing can be checked: serve it by https or from localhost");
  }
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
