/** The parts that need neither onnxruntime nor a network: for tools, and for tests against other runtimes. */

export { BundleError, ProviderError, QSchedError, RequestError } from "./errors.js";
export { pngBytes } from "./image.js";
export { readManifest } from "./manifest.js";
export { TorchNoise } from "./noise.js";
export { Schedule } from "./schedule.js";
export { guidanceEmbedding } from "./sources.js";
export { readTokenizer } from "./tokenize.js";
