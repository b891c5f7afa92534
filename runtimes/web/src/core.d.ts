/** The parts that need neither onnxruntime nor a network. */

export { BundleError, pngBytes, ProviderError, QSchedError, RequestError } from "./index.js";

/** torch.randn on a CPU generator; `count` is at least 16. */
export declare class TorchNoise {
  constructor(seed: number | bigint);
  randn(count: number): Float32Array;
}

export interface TokenizerSpec {
  kind: "clip" | "unigram";
  file: string;
  length: number;
  bos_id: number;
  eos_id: number;
  pad_id: number;
}

export interface Tokenizer {
  ids(prompt: string): number[];
  leftOut(prompt: string): number;
}

export declare function readTokenizer(bytes: Uint8Array, spec: TokenizerSpec): Tokenizer;
/** qsched.json's bytes, held to the schema and to what no schema says. */
export declare function readManifest(bytes: Uint8Array): Record<string, unknown>;

/** A schedule of the manifest with its coefficients multiplied in; latents are Float32Array [B, C, h, w]. */
export declare class Schedule {
  /** `coefficients`, {c_x, c_eps, bias?}, replace the table's own. */
  constructor(table: Record<string, unknown>, coefficients?: Record<string, unknown>);
  readonly length: number;
  timestep(i: number): number;
  drawsNoise(i: number): boolean;
  scaleModelInput(x: Float32Array, i: number): Float32Array;
  noised(x0: Float32Array, z: Float32Array, i: number): Float32Array;
  step(x: Float32Array, e: Float32Array, z: Float32Array | null, i: number, shape: number[]): Float32Array;
  estimate(x: Float32Array, z: Float32Array | null, next: Float32Array, i: number, shape: number[]): Float32Array;
}

/** LCM's embedding of the guidance scale, `width` values. */
export declare function guidanceEmbedding(guidanceScale: number, width: number): Float32Array;
