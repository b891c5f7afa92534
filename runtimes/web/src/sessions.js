/** onnxruntime sessions: devices by the names people use, memory modes, feeds cast to the graph's types. */

import { asBundleError, ProviderError, shown } from "./errors.js";

const MEMORIES = ["low", "fast"];
const CASTS = {
  float32: (data) => (data instanceof Float32Array ? data : Float32Array.from(data)),
  int64: (data) => BigInt64Array.from(data, (value) => BigInt(Math.trunc(value))),
  int32: (data) => Int32Array.from(data, Math.trunc),
};

/** One loaded graph. `ort` is onnxruntime's module, `provider` its name of a device.
 *
 * `model`: {graph: Uint8Array or a path on disk, data: [{path, data: Uint8Array}]}; `memory` "low" keeps 4-bit
 * convolutions packed and gives back what each operator took, "fast" unpacks at load; `threads` null: onnxruntime's
 * own choice.
 */
export async function openGraph(ort, name, model, { provider, memory, threads }) {
  if (!MEMORIES.includes(memory)) throw new ProviderError(`memory mode ${shown(memory)} is unknown: use low or fast`);
  const create = () => ort.InferenceSession.create(model.graph, sessionOptions(model, provider, memory, threads));
  const session = await asBundleError(`onnxruntime cannot load ${name}`, create);
  const types = Object.fromEntries(session.inputMetadata.map((input) => [input.name, input.type]));
  return new Graph(ort, session, types);
}

function sessionOptions(model, provider, memory, threads) {
  const fast = memory === "fast";
  return {
    executionProviders: [provider],
    logSeverityLevel: 4, // what fails is an exception; a stranger's text stays off the console
    enableCpuMemArena: fast,
    enableMemPattern: fast,
    extra: { session: fast ? { disable_quant_qdq: "1" } : {} },
    ...(threads === null ? {} : { intraOpNumThreads: threads }),
    ...(model.data.length ? { externalData: model.data } : {}),
  };
}

class Graph {
  constructor(ort, session, types) {
    Object.assign(this, { ort, session, types });
  }

  /** {name: {data, dims}} -> {name: {data, dims}}, in the order of the graph's outputs. */
  async run(feeds) {
    const cast = Object.fromEntries(Object.entries(this.types).map(([name, type]) => [name, this.tensor(feeds[name], type)]));
    const found = await this.session.run(cast);
    const outputs = {};
    for (const name of this.session.outputNames) {
      const data = await found[name].getData();
      outputs[name] = { data: data.slice(), dims: [...found[name].dims] }; // the backend may use its memory again
      found[name].dispose?.();
    }
    return outputs;
  }

  tensor({ data, dims }, type) {
    if (!Object.hasOwn(CASTS, type)) throw new TypeError(`an input of the type ${type}, which this runtime does not feed`);
    return new this.ort.Tensor(type, CASTS[type](data), dims);
  }

  async release() {
    await this.session.release();
  }
}
