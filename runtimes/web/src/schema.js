/** The part of JSON Schema that qsched.schema.json uses, and no more: an unknown keyword is an error of ours. */

import { shown } from "./errors.js";
import { MalformedError } from "./json.js";

export const KEYWORDS = new Set([
  "$ref", "type", "const", "enum", "anyOf", "properties", "required", "additionalProperties", "propertyNames", "items",
  "minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties", "minimum", "maximum", "pattern",
]); // prettier-ignore

const TYPES = {
  object: (v) => typeof v === "object" && v !== null && !Array.isArray(v),
  array: Array.isArray,
  string: (v) => typeof v === "string",
  integer: Number.isInteger,
  number: (v) => typeof v === "number",
  boolean: (v) => typeof v === "boolean",
  null: (v) => v === null,
};

/** MalformedError, naming the place, unless `value` is as `schema` says; `root` holds the $defs. */
export function checkSchema(value, schema, root = schema, where = "") {
  while (schema.$ref) schema = root.$defs[schema.$ref.replace("#/$defs/", "")];
  const place = where || "the document";
  const kinds = [schema.type ?? []].flat();
  if (kinds.length && !kinds.some((kind) => TYPES[kind](value))) throw new MalformedError(`${place} must be ${kinds}`);
  if ("const" in schema && value !== schema.const) throw new MalformedError(`${place} must be ${schema.const}`);
  if (schema.enum && !schema.enum.includes(value)) throw new MalformedError(`${place} must be one of ${schema.enum}`);
  if (schema.anyOf) checkAny(value, schema.anyOf, root, where);
  if (TYPES.object(value)) checkObject(value, schema, root, where);
  else if (Array.isArray(value)) {
    bounded(value.length, schema.minItems, schema.maxItems, `${place}'s length`);
    if (schema.items) value.forEach((item, i) => checkSchema(item, schema.items, root, `${where}[${i}]`));
  } else if (typeof value === "string") checkText(value, schema, place);
  else if (typeof value === "number") bounded(value, schema.minimum, schema.maximum, place);
}

function checkText(value, schema, place) {
  bounded([...value].length, schema.minLength, schema.maxLength, `${place}'s length`);
  if (schema.pattern && !new RegExp(schema.pattern, "u").test(value)) {
    throw new MalformedError(`${place} is ${shown(value)}, which does not fit ${schema.pattern}`);
  }
}

function checkAny(value, choices, root, where) {
  for (const choice of choices) {
    try {
      return checkSchema(value, choice, root, where);
    } catch (error) {
      if (!(error instanceof MalformedError)) throw error;
    }
  }
  throw new MalformedError(`${where || "the document"} is none of what it may be: an unknown source or type`);
}

function checkObject(value, schema, root, where) {
  const place = where || "the document";
  const keys = Object.keys(value);
  bounded(keys.length, schema.minProperties, schema.maxProperties, `${place}'s number of keys`);
  for (const key of schema.required ?? []) {
    if (!Object.hasOwn(value, key)) throw new MalformedError(`${place} lacks '${key}'`);
  }
  for (const key of keys) {
    if (schema.propertyNames) checkSchema(key, schema.propertyNames, root, `the key ${shown(key)} of ${place}`);
    const known = schema.properties && Object.hasOwn(schema.properties, key);
    const rule = known ? schema.properties[key] : (schema.additionalProperties ?? true);
    if (rule === false) throw new MalformedError(`${place} has the unknown key ${shown(key)}`);
    if (rule !== true) checkSchema(value[key], rule, root, `${where}.${key.slice(0, 40)}`.replace(/^\./, ""));
  }
}

function bounded(value, low = value, high = value, what) {
  if (value < low || value > high) throw new MalformedError(`${what} is out of range: ${low} to ${high}`);
}
