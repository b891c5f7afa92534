/** Prompt to picture, whatever the model's family: what the page's worker and Node both run. */

import { asBundleError, BundleError, RequestError, shown } from "./errors.js";
import { fromPictures, toPictures } from "./image.js";
import { readsText } from "./manifest.js";
import { TorchNoise } from "./noise.js";
import { checkRoom, firstStep, integer, MOST_PICTURES, MOST_PIXELS, number, picturesOf, seedsOf, texts } from "./request.js";
import { Schedule, scaled, shifted } from "./schedule.js";
import { MOVING, valueOf } from "./sources.js";
import { checkDims, checkFinite, count, patchify, stacked, unpatchify } from "./tensors.js";

const f32 = Math.fround;
const DEFAULTS = {
  seed: 0, numInferenceSteps: null, guidanceScale: null, negativePrompt: null, numImagesPerPrompt: 1, height: null,
  width: null, image: null, strength: 0.8, coefficients: null, preview: false, onStep: null, signal: null,
}; // prettier-ignore

/** Draws pictures from a bundle whose graphs are loaded: index.d.ts says what `draw` takes and gives. */
export class Engine {
  /** `graphs`: {name: {run(feeds), release()}}; `tokenizers`: {name: tokenizer}. */
  constructor(manifest, graphs, tokenizers) {
    Object.assign(this, { manifest, graphs, tokenizers, backbone: manifest.components[manifest.backbone] });
  }

  async close() {
    const graphs = Object.values(this.graphs);
    this.graphs = {};
    for (const graph of graphs) await graph.release();
  }

  /** How many of the prompt's tokens each tokenizer has no room for, by its name. */
  leftOut(prompt) {
    const [text] = texts("prompt", prompt);
    return Object.fromEntries(Object.entries(this.tokenizers).map(([name, t]) => [name, t.leftOut(text)]));
  }

  async draw(prompt, options = {}) {
    const asked = askedFor(options);
    const each = integer("numImagesPerPrompt", asked.numImagesPerPrompt, 1, MOST_PICTURES);
    const prompts = texts("prompt", prompt).flatMap((text) => Array(each).fill(text));
    const seeds = seedsOf(asked.seed, prompts.length);
    const streams = seeds.map((seed) => new TorchNoise(seed));
    let { height, width } = asked;
    const pictures = asked.image === null ? null : picturesOf(asked.image, prompts.length, streams.length);
    if (pictures && (height || width)) throw new RequestError("height and width beside an image: leave them out");
    if (pictures) [height, width] = [pictures[0].height, pictures[0].width];
    const sides = this.shape(prompts.length, height, width).slice(2);
    const schedule = this.schedule(asked.numInferenceSteps, asked.coefficients, sides);
    const negatives = repeatedTexts(asked.negativePrompt, each);
    const conditioning = await this.condition(prompts, { ...asked, negativePrompt: negatives, height, width });
    const start = pictures && (await this.started(pictures, schedule, streams, conditioning, asked.strength));
    return this.finish(this.trajectory(conditioning, schedule, streams, start), conditioning.shape, schedule, {
      ...asked,
      seeds,
    });
  }

  async started(pictures, schedule, streams, { shape }, strength) {
    const first = firstStep(schedule.length, strength, this.manifest.strength_rounds_up);
    const x0 = await this.encode(pictures, streams);
    const z = drawNoise(streams, shape);
    const all = Float32Array.from(z, (_, i) => x0[i % x0.length]); // one picture for a whole batch
    return { x: schedule.noised(all, z, first), first };
  }

  /** Goes through the steps, until the callback says true, and decodes the last one's latents or its estimate. */
  async finish(steps, shape, schedule, { seeds, preview, onStep, signal }) {
    let [last, stopped] = [null, false];
    for await (const step of steps) {
      signal?.throwIfAborted();
      checkFinite(step.next, `step ${step.i} gave latents that are not finite: no picture can be drawn of them`);
      last = step;
      if (onStep) stopped = (await onStep(await this.told(step, shape, schedule, preview))) === true;
      signal?.throwIfAborted();
      if (stopped) break;
    }
    const latents = stopped ? schedule.estimate(last.x, last.z, last.next, last.i, shape) : last.next;
    const images = await this.pictures(latents, shape);
    const seed = seeds.length === 1 ? seeds[0] : seeds;
    return { images, latents: { data: last.next, dims: shape }, seed, stopped };
  }

  /** What a callback is told of a step; with `preview`, the pictures as the step sees them. */
  async told({ i, x, z, next }, shape, schedule, preview) {
    const told = { i, steps: schedule.length };
    if (!preview) return told;
    const estimate = schedule.estimate(x, z, next, i, shape);
    return { ...told, images: await this.pictures(estimate, shape) };
  }

  async pictures(latents, shape) {
    const decoded = await this.decode(latents, shape);
    const { decoder } = this.manifest;
    checkFinite(decoded.data, `${decoder} gave a picture that is not finite: make the bundle again`);
    return toPictures(decoded);
  }

  /** The table for `steps` (default: the bundle's), with the bundle's coefficients or those given, for latents of the
   * `sides` [h, w] (default: the bundle's). */
  schedule(steps, coefficients = null, sides = [this.manifest.latents.height, this.manifest.latents.width]) {
    const asked = steps ?? this.manifest.default_steps;
    const stored = this.manifest.schedules[integer("numInferenceSteps", asked, 1, 10_000)];
    if (!stored) {
      const known = Object.keys(this.manifest.schedules).join(", ");
      throw new RequestError(`no schedule for ${asked} steps: this bundle has ${known}`);
    }
    const at = sides[0] * sides[1];
    if (coefficients === "identity") {
      const { stock } = stored;
      return new Schedule(shifted(stock ? { ...stored, ...stock } : stored, at), identity(asked));
    }
    if (coefficients !== null) throw new RequestError(`coefficients is ${shown(coefficients)}: give null or "identity"`);
    return new Schedule(shifted(stored, at));
  }

  /** Latents [B, C, h, w] for pictures of `height` x `width` pixels; RequestError if the network cannot take it. */
  shape(batch, height, width) {
    const { latents } = this.manifest;
    const grid = latents.pixels_per_latent * latents.multiple_of;
    for (const [name, pixels] of Object.entries({ height, width })) {
      if (pixels !== null && integer(name, pixels, 1, MOST_PIXELS) % grid) {
        throw new RequestError(`${name} ${pixels} does not fit this model: use a multiple of ${grid}`);
      }
    }
    const sides = [height, width].map((pixels, i) => pixels ?? latents[["height", "width"][i]] * latents.pixels_per_latent);
    checkRoom(batch, ...sides);
    return [batch, latents.channels, ...sides.map((side) => side / latents.pixels_per_latent)];
  }

  /** Runs the text encoders; under classifier-free guidance the negative prompts come first in every batch. */
  async condition(prompts, { guidanceScale = null, negativePrompt = null, height = null, width = null }) {
    const scale = guidanceScale === null ? this.manifest.guidance.default : number("guidanceScale", guidanceScale, 0, 1000);
    const shape = this.shape(prompts.length, height, width);
    const guided = this.guides(scale);
    const negatives = this.negatives(negativePrompt, prompts.length, guided);
    const known = {
      texts: guided ? [...negatives, ...prompts] : prompts,
      guidanceScale: scale,
      size: shape.slice(2),
      latents: this.manifest.latents,
      tokenizers: this.tokenizers,
      outputs: new Map(),
    };
    const zeroed = this.manifest.guidance.zero_without_negative && guided && negativePrompt === null;
    const feeds = await asBundleError("the text encoders cannot be run", () => this.encoded(known, zeroed));
    return { feeds, guidanceScale: scale, shape };
  }

  negatives(asked, batch, guided) {
    const given = asked === null ? [""] : texts("negativePrompt", asked);
    if (given.some((text) => text !== "") && !guided) {
      throw new RequestError(`negativePrompt ${shown(asked)} has no effect: this bundle runs without guidance`);
    }
    if (given.length === batch) return given;
    if (Array.isArray(asked)) {
      throw new RequestError(`${batch} prompts, ${given.length} negative ones: give one for all, or one for each`);
    }
    return Array(batch).fill(given[0]);
  }

  /** The backbone's fixed inputs, once the text encoders have run. */
  async encoded(known, zeroed) {
    for (const [name, component] of Object.entries(this.manifest.components)) {
      if (!readsText(component)) continue;
      const outputs = await this.run(name, valuesOf(component.inputs, known));
      for (const [output, tensor] of Object.entries(outputs)) {
        if (zeroed) tensor.data.fill(0, 0, tensor.data.length / 2);
        known.outputs.set(`${name}.${output}`, tensor);
      }
    }
    const fixed = Object.entries(this.backbone.inputs).filter(([, source]) => !MOVING.includes(source));
    return valuesOf(Object.fromEntries(fixed), known);
  }

  /** Yields the steps, {i, x, e, z, next}, from noise or from `start`, {x, first}; `streams` give all noise. */
  async *trajectory(conditioning, schedule, streams, start = null) {
    const { shape } = conditioning;
    let x = start?.x ?? scaled(drawNoise(streams, shape), schedule.table.init_noise_sigma);
    for (let i = start?.first ?? 0; i < schedule.length; i++) {
      const e = await this.networkOutput(schedule.scaleModelInput(x, i), schedule.timestep(i), conditioning);
      const z = schedule.drawsNoise(i) ? drawNoise(streams, shape) : null;
      const next = schedule.step(x, e, z, i, shape);
      yield { i, x, e, z, next };
      x = next;
    }
  }

  /** e, Float32Array like x; guided: e = e_negative + guidance_scale (e_prompt - e_negative). */
  async networkOutput(x, timestep, { feeds, guidanceScale, shape }) {
    const guided = this.guides(guidanceScale);
    const { patch } = this.manifest.latents;
    const one = { data: x, dims: shape };
    const read = guided ? stacked([one, one]) : one;
    const latents = patchify(read, patch);
    const batch = read.dims[0];
    const moving = {
      latents,
      timestep: { data: [timestep], dims: [1] },
      timesteps: { data: Array(batch).fill(timestep), dims: [batch] },
    };
    const changing = Object.entries(this.backbone.inputs).filter(([, source]) => MOVING.includes(source));
    const all = { ...feeds, ...Object.fromEntries(changing.map(([name, source]) => [name, moving[source]])) };
    const [output] = Object.values(await this.run(this.manifest.backbone, all));
    const { data, dims } = unpatchify(output, patch, read.dims);
    checkDims(this.manifest.backbone, dims, read.dims);
    return guided ? guide(data, guidanceScale) : data;
  }

  /** Latents -> pictures float32 [B, 3, H, W], about -1..1. */
  async decode(x, shape) {
    const { latents, decoder, components } = this.manifest;
    const [factor, shift] = [f32(latents.scaling_factor), f32(latents.shift_factor)];
    const data = x.map((value) => f32(value / factor) + shift);
    const feeds = Object.keys(components[decoder].inputs).map((name) => [name, { data, dims: shape }]);
    const [decoded] = Object.values(await this.run(decoder, Object.fromEntries(feeds)));
    const sides = shape.slice(2).map((side) => side * latents.pixels_per_latent);
    checkDims(decoder, decoded.dims, [shape[0], 3, ...sides]);
    return decoded;
  }

  /** Pictures -> latents Float32Array [B, C, h, w], sampled where the encoder is variational. */
  async encode(pictures, streams) {
    const { latents: spec, encoder, components } = this.manifest;
    if (encoder === null) throw new RequestError("image: this bundle has no VAE encoder; export it with --encoder");
    const pixels = fromPictures(pictures);
    const feeds = Object.keys(components[encoder].inputs).map((name) => [name, pixels]);
    const [{ data, dims }] = Object.values(await this.run(encoder, Object.fromEntries(feeds)));
    const shape = [pictures.length, spec.channels, ...pixels.dims.slice(2).map((s) => Math.floor(s / spec.pixels_per_latent))];
    const twice = dims.length === 4 && dims[1] === 2 * spec.channels;
    checkDims(encoder, dims, twice ? [shape[0], 2 * shape[1], ...shape.slice(2)] : shape);
    const latents = twice ? sampled(data, shape, drawNoise(streams, shape)) : data;
    const [factor, shift] = [f32(spec.scaling_factor), f32(spec.shift_factor)];
    return latents.map((value) => f32(value - shift) * factor);
  }

  async run(name, feeds) {
    const graph = this.graphs[name];
    if (!graph) throw new RequestError("this sampler is closed: load it again");
    return asBundleError(`${name} cannot be run`, () => graph.run(feeds));
  }

  guides(guidanceScale) {
    return this.manifest.guidance.kind === "classifier-free" && guidanceScale > 1;
  }
}

function askedFor(options) {
  const unknown = Object.keys(options).find((key) => !Object.hasOwn(DEFAULTS, key));
  if (unknown) throw new RequestError(`${shown(unknown)} is no option of draw: use ${Object.keys(DEFAULTS).join(", ")}`);
  const given = Object.entries(options).filter(([, value]) => value !== undefined);
  const asked = { ...DEFAULTS, ...Object.fromEntries(given) };
  if (asked.onStep !== null && typeof asked.onStep !== "function") throw new RequestError("onStep must be a function");
  return asked;
}

function repeatedTexts(value, each) {
  return Array.isArray(value) ? value.flatMap((text) => Array(each).fill(text)) : value;
}

function identity(steps) {
  return { c_x: Array(steps).fill(1), c_eps: Array(steps).fill(1) };
}

function valuesOf(inputs, known) {
  return Object.fromEntries(Object.entries(inputs).map(([name, source]) => [name, valueOf(source, known)]));
}

function guide(both, guidanceScale) {
  const [half, scale] = [both.length / 2, f32(guidanceScale)];
  const e = new Float32Array(half);
  for (let i = 0; i < half; i++) e[i] = both[i] + f32(scale * f32(both[half + i] - both[i]));
  return e;
}

/** mean + exp(log variance / 2) z of an encoder's [B, 2 C, h, w]. */
function sampled(data, shape, z) {
  const size = count(shape.slice(1));
  return z.map((noise, i) => {
    const at = Math.floor(i / size) * 2 * size + (i % size);
    const logVariance = Math.min(20, Math.max(-30, data[at + size]));
    return data[at] + f32(f32(Math.exp(f32(0.5 * logVariance))) * noise);
  });
}

/** Noise of `shape` [B, ...] from one stream for all, or from one stream for each picture. */
function drawNoise(streams, shape) {
  if (streams.length === 1) return streams[0].randn(count(shape));
  const one = [1, ...shape.slice(1)];
  return stacked(streams.map((stream) => ({ data: stream.randn(count(one)), dims: one }))).data;
}
