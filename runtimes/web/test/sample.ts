// Uses every declaration of index.d.ts and core.d.ts as an app does; `npm run types` checks it, nothing runs it.

import {
  BundleError,
  droppedFiles,
  forgetDownloads,
  pngBytes,
  ProviderError,
  QSchedError,
  RequestError,
  Sampler,
  type DrawOptions,
  type LoadOptions,
  type Output,
  type Picture,
  type Progress,
  type Step,
} from "qsched-runtime";
import { readManifest, readTokenizer, TorchNoise, type TokenizerSpec } from "qsched-runtime/core";

const controller = new AbortController();
const load: LoadOptions = {
  device: "auto",
  memory: "fast",
  threads: 2,
  trust: "listed",
  selfTest: true,
  cache: false,
  ort: new URL("https://example.org/ort/"),
  onProgress: ({ stage, file, loaded, total }: Progress) => console.log(stage, file?.length, loaded / total),
  onNotice: (sentence) => console.warn(sentence.toUpperCase()),
  signal: controller.signal,
};

export async function draw(input: HTMLInputElement, event: DragEvent, pixels: ImageData): Promise<Uint8Array> {
  const samplers: Sampler[] = [
    await Sampler.load("bundle/", load),
    await Sampler.load(new URL("https://example.org/bundle.zip")),
    await Sampler.load(new Blob()),
    await Sampler.load(input.files!),
    await Sampler.load(await droppedFiles(event.dataTransfer!)),
  ];
  const options: DrawOptions = {
    seed: [1, 2n],
    numInferenceSteps: 4,
    guidanceScale: 2,
    negativePrompt: "blurred",
    numImagesPerPrompt: 2,
    image: pixels,
    strength: 0.5,
    coefficients: "identity",
    preview: true,
    onStep: ({ i, steps, images }: Step) => i + 1 === steps || images?.[0]?.width === 0,
    signal: controller.signal,
  };
  const output: Output = await samplers[0]!.draw(["a red apple"], options);
  const picture: Picture = output.images[0]!;
  const shown: ImageData = new ImageData(new Uint8ClampedArray(picture.data), picture.width, picture.height);
  const left: number | undefined = (await samplers[0]!.leftOut("a red apple")).tokenizer;
  console.log(shown, left, samplers[0]!.device, samplers[0]!.manifest.name, output.stopped, output.latents.dims.length);
  await samplers[0]!.close();
  await forgetDownloads();
  return pngBytes(picture);
}

export function explained(error: unknown): string {
  for (const kind of [BundleError, RequestError, ProviderError]) if (error instanceof kind) return error.message;
  return error instanceof QSchedError ? error.name : String(error);
}

export function parts(bytes: Uint8Array, spec: TokenizerSpec): number[] {
  console.log(new TorchNoise(7n).randn(16).length, readManifest(bytes).name);
  return readTokenizer(bytes, spec).ids("a red apple");
}

// @ts-expect-error a device that does not exist
export const wrong: LoadOptions = { device: "tpu" };
// @ts-expect-error an option that does not exist
export const unknown: DrawOptions = { steps: 4 };
