/** Drawn by this browser: the web runtime with onnxruntime-web's files, in a worker. */

import { pngBytes, Sampler } from "./runtime/browser.js";

let loading = null; // a Sampler's promise, kept for the next picture

/** As server.js, with {notice}, {loaded, total} of the download and {stage} of loading besides. */
export async function draw(asked, { on, signal, webgpu }) {
  const sampler = await loaded({ on, signal, webgpu });
  const { images } = await sampler.draw(asked.prompt, {
    seed: asked.seed,
    numInferenceSteps: asked.steps,
    guidanceScale: asked.guidance,
    negativePrompt: asked.negative || null,
    coefficients: asked.stock ? "identity" : null,
    preview: true,
    signal,
    onStep: async ({ i, steps, images: previews }) => {
      on({ step: i, steps });
      if (i < steps - 1) on({ preview: await png(previews[0]) });
    },
  });
  return png(images[0]);
}

async function loaded({ on, signal, webgpu }) {
  loading ??= Sampler.load("bundle/", {
    ort: "ort/",
    device: webgpu ? "auto" : "wasm",
    signal,
    onProgress: ({ stage, loaded: done, total }) => on(stage === "download" ? { loaded: done, total } : { stage }),
    onNotice: (notice) => on({ notice }),
  });
  try {
    return await loading;
  } catch (error) {
    loading = null;
    throw error;
  }
}

async function png(picture) {
  return new Blob([await pngBytes(picture)], { type: "image/png" });
}
