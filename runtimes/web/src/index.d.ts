/** Draw pictures from a qsched-edge bundle in the browser (in a Web Worker) and in Node. */

export type Device = "auto" | "webgpu" | "wasm" | "cpu" | "cuda" | "coreml" | "directml";

/** Pixels as ImageData has them: RGBA. */
export interface Picture {
  data: Uint8ClampedArray;
  width: number;
  height: number;
}

/** How far loading is; `loaded` and `total` are bytes while files come, graphs while they are loaded. */
export interface Progress {
  stage: "download" | "read" | "load" | "self-test" | "ready";
  file?: string;
  loaded: number;
  total: number;
}

export interface LoadOptions {
  /** "auto" (default): in a page WebGPU where it works, else WASM, with a notice; in Node the processor. */
  device?: Device;
  /** "low" (default) keeps 4-bit convolutions packed, "fast" unpacks them at load. */
  memory?: "low" | "fast";
  /** Of onnxruntime; null (default): its own choice. In a page more than one needs COOP and COEP headers. */
  threads?: number | null;
  /** "any" lets graphs of your own have operators that this project does not emit. */
  trust?: "listed" | "any";
  /** Whether the bundle's self-test runs after loading; true by default. */
  selfTest?: boolean;
  /** Page only: keep downloads in Cache Storage by their SHA-256; true by default. */
  cache?: boolean;
  /** Page only: address of onnxruntime-web's dist folder, with its last slash, where no bundler resolves its name. */
  ort?: string | URL | null;
  onProgress?: (progress: Progress) => void;
  /** A sentence about what is not as asked: WebGPU that does not work here, a cache that is full. */
  onNotice?: (sentence: string) => void;
  signal?: AbortSignal;
}

export interface Step {
  /** Counts from 0. */
  i: number;
  steps: number;
  /** With `preview`: the finished pictures as this step sees them. */
  images?: Picture[];
}

export interface DrawOptions {
  /** One noise stream for all pictures, or one for each; null draws one, which the output tells. Default 0. */
  seed?: number | bigint | (number | bigint)[] | null;
  numInferenceSteps?: number | null;
  guidanceScale?: number | null;
  negativePrompt?: string | string[] | null;
  numImagesPerPrompt?: number;
  /** Pixels. */
  height?: number | null;
  width?: number | null;
  /** Where sampling starts: ImageData, or three bytes a pixel; one for all prompts or one for each. */
  image?: PictureSource | PictureSource[] | null;
  /** Share of the steps that follow a picture, 0..1. Default 0.8. */
  strength?: number;
  /** "identity" draws without the bundle's calibration: the stock schedule, all coefficients one. */
  coefficients?: "identity" | null;
  preview?: boolean;
  /** Returning true ends the sampling: the pictures are then the step's estimate. */
  onStep?: ((step: Step) => unknown) | null;
  signal?: AbortSignal | null;
}

export interface PictureSource {
  data: Uint8Array | Uint8ClampedArray;
  width: number;
  height: number;
}

export interface Output {
  images: Picture[];
  latents: { data: Float32Array; dims: number[] };
  seed: bigint | bigint[];
  stopped: boolean;
}

/** A file of a list: of an input or a drop (`droppedFiles`), or a path with its content. */
export type BundleFile = File | { path: string; file: Blob };

export declare class Sampler {
  /** Checks, then loads a bundle: a URL of its folder or of a packed file (.zip, .qsched), a packed Blob, a list of
   * files, or in Node the path of a folder or packed file. Rejects with BundleError, ProviderError or RequestError. */
  static load(source: string | URL | Blob | Iterable<BundleFile>, options?: LoadOptions): Promise<Sampler>;
  /** Where the networks run. */
  readonly device: string;
  /** qsched.json, checked. */
  readonly manifest: Readonly<Record<string, unknown>>;
  draw(prompt: string | string[], options?: DrawOptions): Promise<Output>;
  /** How many of the prompt's tokens each tokenizer has no room for. */
  leftOut(prompt: string): Promise<Record<string, number>>;
  close(): Promise<void>;
}

/** Page only: the files of a drop, folders walked. Call it within the drop's event. */
export declare function droppedFiles(dataTransfer: DataTransfer): Promise<{ path: string; file: File }[]>;
/** Page only: throws away every download that the browser has kept for this site. */
export declare function forgetDownloads(): Promise<boolean>;
/** A picture as an 8-bit RGB PNG. */
export declare function pngBytes(picture: Picture): Promise<Uint8Array>;

export declare class QSchedError extends Error {}
export declare class BundleError extends QSchedError {}
export declare class RequestError extends QSchedError {}
export declare class ProviderError extends QSchedError {}
