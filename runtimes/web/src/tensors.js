/** Arrays with a shape: {data, dims}, and the few things that are done to them. */

import { BundleError } from "./errors.js";

export function count(dims) {
  return dims.reduce((all, side) => all * side, 1);
}

/** The tensors one behind the other along the first axis. */
export function stacked(tensors) {
  const [first] = tensors;
  const data = new first.data.constructor(tensors.reduce((all, t) => all + t.data.length, 0));
  let at = 0;
  for (const tensor of tensors) {
    data.set(tensor.data, at);
    at += tensor.data.length;
  }
  return { data, dims: [tensors.reduce((all, t) => all + t.dims[0], 0), ...first.dims.slice(1)] };
}

/** The tensors side by side along the last axis; BundleError where their other sides differ. */
export function joined(tensors) {
  if (tensors.length === 1) return tensors[0];
  const widths = tensors.map((t) => t.dims.at(-1));
  const rows = count(tensors[0].dims.slice(0, -1));
  const width = widths.reduce((all, w) => all + w, 0);
  if (tensors.some((t) => t.dims.slice(0, -1).join() !== tensors[0].dims.slice(0, -1).join())) {
    throw new BundleError("outputs of text encoders that are to be joined differ in shape: make the bundle again");
  }
  const data = new tensors[0].data.constructor(rows * width);
  let at = 0;
  for (let row = 0; row < rows; row++) {
    tensors.forEach((tensor, i) => {
      data.set(tensor.data.subarray(row * widths[i], (row + 1) * widths[i]), at);
      at += widths[i];
    });
  }
  return { data, dims: [...tensors[0].dims.slice(0, -1), width] };
}

/** [B, C, h, w] -> [B, (h / p) (w / p), C p p], rows of patches first; p = 0: no patches, the tensor itself. */
export function patchify(tensor, p) {
  if (!p) return tensor;
  const { data, dims } = tensor;
  const out = new Float32Array(data.length);
  eachPatchValue(dims, p, (plain, patched) => (out[patched] = data[plain]));
  const [batch, channels, height, width] = dims;
  return { data: out, dims: [batch, (height / p) * (width / p), channels * p * p] };
}

/** The inverse of `patchify` for latents of `dims` [B, C, h, w]. */
export function unpatchify(tensor, p, dims) {
  if (!p) return tensor;
  const patched = [dims[0], (dims[2] / p) * (dims[3] / p), dims[1] * p * p];
  checkDims("the backbone", tensor.dims, patched);
  const out = new Float32Array(tensor.data.length);
  eachPatchValue(dims, p, (plain, at) => (out[plain] = tensor.data[at]));
  return { data: out, dims };
}

function eachPatchValue([batch, channels, height, width], p, visit) {
  const [columns, size] = [width / p, channels * p * p];
  let plain = 0;
  for (let b = 0; b < batch; b++) {
    for (let c = 0; c < channels; c++) {
      for (let y = 0; y < height; y++) {
        for (let x = 0; x < width; x++) {
          const patch = (b * (height / p) + Math.floor(y / p)) * columns + Math.floor(x / p);
          visit(plain++, patch * size + (c * p + (y % p)) * p + (x % p));
        }
      }
    }
  }
}

/** BundleError where a graph gave another shape than the manifest promises. */
export function checkDims(name, found, expected) {
  if (found.join() !== expected.join()) {
    throw new BundleError(`${name} gave [${found}] instead of [${expected}]: make the bundle again`);
  }
}

/** BundleError with `what` where a value is not finite. */
export function checkFinite(values, what) {
  for (let i = 0; i < values.length; i++) {
    if (!Number.isFinite(values[i])) throw new BundleError(what);
  }
}
