/** Where graph inputs come from: the vocabulary of `inputs` in qsched.json. */

import { BundleError, shown } from "./errors.js";
import { count, joined } from "./tensors.js";

const f32 = Math.fround;
export const MOVING = ["latents", "timestep", "timesteps"]; // what changes from step to step

/** One source's tensor; `known` is all that is known before the first step:
 * {texts, guidanceScale, size: [h, w], latents, tokenizers, outputs: Map of COMPONENT.OUTPUT -> tensor}. */
export function valueOf(source, known) {
  const batch = known.texts.length;
  if (source.tokenizer !== undefined) return tokenIds(known.tokenizers[source.tokenizer], known.texts);
  if (source.attention_mask !== undefined) return attentionMask(known.tokenizers[source.attention_mask], known.texts);
  if (source.outputs !== undefined) return joined(source.outputs.map((name) => known.outputs.get(name)));
  if (source.guidance_embedding !== undefined) {
    const row = guidanceEmbedding(known.guidanceScale, source.guidance_embedding);
    return repeated(row, batch);
  }
  if (source.zeros !== undefined) return { data: new Float64Array(count(source.zeros)), dims: source.zeros };
  if (source === "guidance_scale") return { data: Array(batch).fill(known.guidanceScale), dims: [batch] };
  if (source === "image_size") return imageSize(known, batch);
  if (source === "patch_positions") return patchPositions(known.size, known.latents.patch);
  throw new BundleError(`input source ${shown(source)} is unknown to this runtime: use a newer one`);
}

function tokenIds(tokenizer, texts) {
  return { data: texts.flatMap((text) => tokenizer.ids(text)), dims: [texts.length, tokenizer.spec.length] };
}

/** 1 for each id that is no padding. */
function attentionMask(tokenizer, texts) {
  const { length } = tokenizer.spec;
  const counts = texts.map((text) => tokenizer.count(text));
  return { data: counts.flatMap((read) => Array.from({ length }, (_, i) => Number(i < read))), dims: [texts.length, length] };
}

function repeated(row, batch) {
  const data = new Float32Array(row.length * batch);
  for (let i = 0; i < batch; i++) data.set(row, i * row.length);
  return { data, dims: [batch, row.length] };
}

/** SDXL's time_ids: original height and width, crop corner, target height and width. */
function imageSize({ size, latents }, batch) {
  const [height, width] = size.map((side) => side * latents.pixels_per_latent);
  const row = [height, width, 0, 0, height, width];
  return { data: Array(batch).fill(row).flat(), dims: [batch, 6] };
}

function patchPositions([height, width], patch) {
  if (!patch) throw new BundleError("patch_positions are read, but latents.patch is 0: make the bundle again");
  const data = [];
  for (let row = 0; row < height / patch; row++) {
    for (let column = 0; column < width / patch; column++) data.push(0, row, column);
  }
  return { data, dims: [data.length / 3, 3] };
}

/** Float32Array [width]: sin and cos of 1000 (guidance_scale - 1), as LCM (arXiv 2310.04378) feeds its scale. */
export function guidanceEmbedding(guidanceScale, width) {
  const half = Math.floor(width / 2);
  const rate = f32(-Math.log(10000.0) / (half - 1));
  const scaled = f32(f32(guidanceScale - 1) * f32(1000));
  const angles = Array.from({ length: half }, (_, i) => f32(scaled * f32(Math.exp(f32(i * rate)))));
  return Float32Array.from([...angles.map(Math.sin), ...angles.map(Math.cos)]);
}
