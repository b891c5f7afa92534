/** The choice between the tokenizers. */

import { bpeFromJson } from "./bpe.js";
import { clipFromJson } from "./clip.js";
import { BundleError } from "./errors.js";
import { parseJson, TOKENIZER_LIMITS } from "./json.js";
import { unigramFromJson } from "./unigram.js";

const KINDS = { bpe: bpeFromJson, clip: clipFromJson, unigram: unigramFromJson };

/** The tokenizer of a tokenizer.json's bytes; BundleError when it is not the kind that `spec` names. */
export function readTokenizer(bytes, spec) {
  if (!Object.hasOwn(KINDS, spec.kind)) {
    throw new BundleError(`tokenizer kind '${spec.kind}' is unknown to this runtime: use a newer one`);
  }
  const data = parseJson(bytes, TOKENIZER_LIMITS, spec.file);
  try {
    return KINDS[spec.kind](data, spec);
  } catch (error) {
    const said = `${spec.file} is no ${spec.kind} tokenizer.json (${error.message}): make the bundle again`;
    throw new BundleError(said, { cause: error });
  }
}
