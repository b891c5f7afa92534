/** A graph from a stranger, before onnxruntime sees it: its operators, where its weights lie, what it claims to hold. */

import { OPERATORS } from "./data.js";
import { BundleError, shown } from "./errors.js";
import { folderOf } from "./paths.js";
import { inner, fields, numbers, once, text, WireError } from "./wire.js";

export const LARGEST_GRAPH = 256 * 2 ** 20; // bytes of the graph itself; its large weights lie in data files
const MOST_NODES = 50_000; // FLUX's transformer has some 10,000
const MOST_TENSORS = 50_000;
const MOST_VALUES = 2 ** 34; // of one weight
const LARGEST_SHAPE = 2 ** 28; // values that a constant shape may ask for
const BITS = {
  1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 16: 16, 17: 8, 18: 8, 19: 8,
  20: 8, 21: 4, 22: 4,
}; // prettier-ignore  of ONNX's data types; no texts, no complex numbers
const SHAPES = { Expand: 1, ConstantOfShape: 0, Tile: 1, Reshape: 1 }; // operator -> the input that is a shape
const [MODEL, GRAPH, NODE] = [[1, 7], [2], [4, 7, 8]]; // fields that stand once
const [ATTRIBUTE, TENSOR, ENTRY, VALUE] = [[1, 4, 5, 6, 20], [2, 8, 9, 14], [1, 2], [1, 2]];
const DIGITS = /^[0-9]{1,15}$/;

/** What the ONNX file `name` is made of: {inputs, outputs, tensors, places}; BundleError for what no bundle holds.
 *
 * `files` are the bundle's listed files (Map of path -> bytes): all weights lie in them, beside the graph. `trusted`
 * lets every operator pass.
 */
export function inspectGraph(data, name, files, trusted = false) {
  const found = { inputs: [], outputs: [], tensors: new Set(), places: [], constants: new Map(), shapes: [] };
  try {
    if (data.length > LARGEST_GRAPH) throw new WireError(`more than ${LARGEST_GRAPH} bytes`);
    for (const part of once(fields(data, 0, data.length), MODEL)) {
      if (part.number === 7) readGraph(data, part, found, trusted);
      else if (part.number === 25 && !trusted) throw new WireError("functions of its own");
      else if (part.number === 20) throw new WireError("training information");
    }
    if (!found.outputs.length) throw new WireError("no graph with outputs");
    checkShapes(found);
    checkPlaces(found, folderOf(name), files);
  } catch (error) {
    if (!(error instanceof WireError)) throw error;
    throw new BundleError(`${name} is no graph that a bundle may hold (${error.message}): refused`, { cause: error });
  }
  return found;
}

function readGraph(data, at, found, trusted) {
  let nodes = 0;
  for (const part of once(inner(data, at), GRAPH)) {
    if (part.number === 1) {
      nodes++;
      readNode(data, part, found, trusted);
    } else if (part.number === 5) readTensor(data, part, found, true);
    else if (part.number === 11) found.inputs.push(nameOf(data, part));
    else if (part.number === 12) found.outputs.push(nameOf(data, part));
    else if (part.number === 15) throw new WireError("sparse weights");
    if (nodes > MOST_NODES || found.tensors.size > MOST_TENSORS) {
      throw new WireError(`more than ${MOST_NODES} nodes or ${MOST_TENSORS} weights`);
    }
  }
}

/** Of a graph's input or output. */
function nameOf(data, at) {
  let name = "";
  for (const part of once(inner(data, at), VALUE)) if (part.number === 1) name = text(data, part);
  return name;
}

function readNode(data, at, found, trusted) {
  const node = { operator: "", domain: "", inputs: [], outputs: [], attributes: [] };
  for (const part of once(inner(data, at), NODE)) {
    if (part.number === 4) node.operator = text(data, part);
    else if (part.number === 7) node.domain = text(data, part);
    else if (part.number === 1) node.inputs.push(text(data, part));
    else if (part.number === 2) node.outputs.push(text(data, part));
    else if (part.number === 5) node.attributes.push(part);
  }
  if (node.domain === "ai.onnx") node.domain = "";
  if (!trusted) checkOperator(node);
  const constant = node.operator === "Constant" ? (node.outputs[0] ?? "") : "";
  for (const part of node.attributes) readAttribute(data, part, found, constant, trusted);
  if (node.domain === "" && Object.hasOwn(SHAPES, node.operator) && node.inputs.length > SHAPES[node.operator]) {
    found.shapes.push([node.operator, node.inputs[SHAPES[node.operator]]]);
  }
}

function checkOperator({ operator, domain }) {
  if (Object.hasOwn(OPERATORS, domain) && OPERATORS[domain].includes(operator)) return;
  const known = `the operator ${domain || "ai.onnx"}.${operator}`.slice(0, 80);
  throw new WireError(`it has ${known}, which this project does not emit; trust: "any" is for graphs of your own`);
}

function readAttribute(data, at, found, constant, trusted) {
  for (const part of once(inner(data, at), ATTRIBUTE)) {
    if ((part.number === 6 || part.number === 11) && !trusted) throw new WireError("a graph within a node");
    if (part.number === 22 || part.number === 23) throw new WireError("sparse weights");
    if (part.number === 5 || part.number === 10) readTensor(data, part, found, false, constant);
  }
}

function readTensor(data, at, found, mayLieOutside, name = "") {
  const tensor = { name, dims: [], kind: 0, location: 0, held: 0, raw: null, entries: new Map(), values: [] };
  for (const part of once(inner(data, at), TENSOR)) readTensorField(data, part, tensor);
  const size = sizeOf(tensor.dims, tensor.kind);
  const shown = JSON.stringify(tensor.name.slice(0, 60));
  if (tensor.name && tensor.values.length) found.constants.set(tensor.name, tensor.values);
  if (mayLieOutside) {
    if (found.tensors.has(tensor.name)) throw new WireError(`two weights of the name ${shown}`);
    found.tensors.add(tensor.name);
  }
  if (tensor.entries.size || tensor.location) {
    if (!mayLieOutside || tensor.location !== 1 || tensor.raw || tensor.held) {
      throw new WireError(`the weight ${shown} lies both in the graph and outside it, or where none may`);
    }
    found.places.push(placeOf(tensor.entries, size));
  } else if (tensor.raw) {
    const held = tensor.raw.end - tensor.raw.start;
    if (held !== size) throw new WireError(`the weight ${shown} has ${held} bytes, its shape asks for ${size}`);
    if (tensor.kind === 7 && size <= 64) found.constants.set(tensor.name, integers(data, tensor.raw));
  } else if (product(tensor.dims) > 2 * tensor.held) {
    throw new WireError(`the weight ${shown} has fewer values than its shape asks for`);
  }
}

function readTensorField(data, part, tensor) {
  if (part.number === 1) tensor.dims.push(...numbers(data, limited(part, 800)));
  else if (part.number === 2) tensor.kind = Number(part.value);
  else if ([4, 5, 7, 10, 11].includes(part.number)) {
    tensor.held += part.value === -1n ? part.end - part.start : 1;
    if (part.number === 7 && part.end - part.start <= 200) tensor.values.push(...numbers(data, part));
  } else if (part.number === 8) tensor.name ||= text(data, part);
  else if (part.number === 9) tensor.raw = part;
  else if (part.number === 13) addEntry(data, part, tensor.entries);
  else if (part.number === 14) tensor.location = Number(part.value);
}

/** No weight has a hundred dimensions, and none may spread a megabyte of them. */
function limited(part, bytes) {
  if (part.end - part.start > bytes) throw new WireError("a weight of too many dimensions");
  return part;
}

function addEntry(data, at, entries) {
  let [key, value] = ["", ""];
  for (const part of once(inner(data, at), ENTRY)) {
    if (part.number === 1) key = text(data, part);
    else if (part.number === 2) value = text(data, part);
  }
  if (entries.has(key) || !["location", "offset", "length", "checksum"].includes(key)) {
    throw new WireError(`the place of a weight says ${shown(key)} twice, or no runtime knows it`);
  }
  entries.set(key, value);
}

function product(values) {
  return values.reduce((all, value) => all * value, 1);
}

function integers(data, { start, end }) {
  const view = new DataView(data.buffer, data.byteOffset + start, end - start);
  return Array.from({ length: (end - start) / 8 }, (_, i) => Number(view.getBigInt64(8 * i, true)));
}

/** Bytes of a tensor. */
function sizeOf(dims, kind) {
  if (!Object.hasOwn(BITS, kind)) throw new WireError(`a weight of the data type ${kind}`);
  if (dims.length > 8 || dims.some((d) => !(d >= 0 && d <= MOST_VALUES)) || product(dims) > MOST_VALUES) {
    throw new WireError(`a weight of the shape ${dims.slice(0, 8)}`);
  }
  return Math.floor((product(dims) * BITS[kind] + 7) / 8);
}

/** {name, start, end} of a weight that lies outside the graph. */
function placeOf(entries, size) {
  const [offset, length] = [entries.get("offset") ?? "0", entries.get("length") ?? String(size)];
  for (const number of [offset, length]) {
    if (!DIGITS.test(number)) throw new WireError(`a weight's offset or length is ${shown(number)}`);
  }
  if (Number(length) !== size) throw new WireError(`a weight of ${size} bytes is said to have ${Number(length)}`);
  return { name: entries.get("location") ?? "", start: Number(offset), end: Number(offset) + size };
}

/** Weights lie in listed files beside the graph, within them, and never on each other. */
function checkPlaces(found, folder, files) {
  const order = (a, b) => (a.name === b.name ? a.start - b.start || a.end - b.end : a.name < b.name ? -1 : 1);
  let before = { name: "", start: 0, end: 0 };
  for (const place of found.places.sort(order)) {
    const { name, start, end } = place;
    if (/[/\\]/.test(name) || ["", ".", ".."].includes(name)) {
      throw new WireError(`it reads its weights from ${shown(name)}, they belong beside it`);
    }
    if (!files.has(folder + name)) {
      throw new WireError(`it reads its weights from ${shown(name)}, which is not listed with size and SHA-256`);
    }
    if (end > files.get(folder + name)) {
      throw new WireError(`a weight ends at byte ${end} of ${shown(name)}, which is shorter`);
    }
    if (name === before.name && start < before.end && end > start) {
      throw new WireError(`two weights share bytes of ${shown(name)}`);
    }
    if (end > start) before = place;
  }
}

function checkShapes(found) {
  for (const [operator, name] of found.shapes) {
    const values = found.constants.get(name);
    if (values && product(values.map((v) => Math.max(1, v))) > LARGEST_SHAPE) {
      throw new WireError(`${operator} to the shape ${values.slice(0, 8)}, which is larger than any picture's`);
    }
  }
}
