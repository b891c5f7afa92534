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
