/** Byte-level BPE: what CLIP's and Qwen's tokenizers share, and Qwen's. */

import { addedTokens, partPattern, validId } from "./unigram.js";

const MOST_CACHED = 65_536;
const UTF8 = new TextEncoder();
const ALPHABET = byteAlphabet();
// of Qwen's tokenizers, in the syntax of tokenizer.json
const PATTERN =
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
const CONTRACTION = /'(?:s|t|re|ve|m|ll|d)/iuy;
// the rest of that pattern over the characters' kinds: b is " ", n a line's end, s other white space
const WORD = /[bs.]?L+|N|b?\.+n*|[bsn]*n+|[bsn]+(?![^bsn])|[bsn]+/y;

/** GPT-2's map of the 256 bytes to printable characters. */
function byteAlphabet() {
  const printable = (b) => (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
  let others = 0;
  return Array.from({ length: 256 }, (_, b) => String.fromCharCode(printable(b) ? b : 256 + others++));
}

/** A text's bytes as characters of that map. */
export function bytesOf(text) {
  return Array.from(UTF8.encode(text), (byte) => ALPHABET[byte]);
}

/** Words -> ids: the best-ranked neighbouring pair of a word's parts is merged until none is left. */
export class Merger {
  /** `partsOf` gives a word's parts, `idOf` the id of a merged one. */
  constructor(merges, partsOf, idOf) {
    this.ranks = new Map(merges.map(([left, right], rank) => [pairKey(left, right), rank]));
    this.partsOf = partsOf;
    this.idOf = idOf;
    this.cache = new Map();
  }

  ids(word) {
    const cached = this.cache.get(word);
    if (cached) return cached;
    if (this.cache.size >= MOST_CACHED) this.cache.clear();
    const ids = this.merged(this.partsOf(word)).map(this.idOf);
    this.cache.set(word, ids);
    return ids;
  }

  merged(parts) {
    let ranks = this.ranksOf(parts);
    while (parts.length > 1) {
      const best = ranks.reduce((least, rank) => Math.min(least, rank), Infinity);
      if (best === Infinity) break;
      parts = joined(parts, ranks, best);
      ranks = this.ranksOf(parts);
    }
    return parts;
  }

  ranksOf(parts) {
    return parts.slice(1).map((right, i) => this.ranks.get(pairKey(parts[i], right)) ?? Infinity);
  }
}

function joined(parts, ranks, best) {
  const merged = [];
  for (let i = 0; i < parts.length; i++) {
    const joins = i + 1 < parts.length && ranks[i] === best;
    merged.push(joins ? parts[i] + parts[i + 1] : parts[i]);
    if (joins) i++;
  }
  return merged;
}

function pairKey(left, right) {
  return `${left.length} ${left} ${right}`;
}

/** One of "L" (letter), "N" (number), "." (anything else). */
export function letterOrNumber(character) {
  if (/\p{L}/u.test(character)) return "L";
  return /\p{N}/u.test(character) ? "N" : ".";
}

/** `ids[:length]` of `prefix + prompt + suffix`, padded to `length`, as transformers' Qwen2Tokenizer gives them: the
 * prefix and the suffix are what a chat template writes around one message of the user. */
export class BpeTokenizer {
  /** `vocabulary`: Map of token -> id; `merges`: pairs in the order they are applied; `added` tokens stand for
   * themselves in a prompt. */
  constructor(vocabulary, merges, added, spec) {
    this.spec = { prefix: "", suffix: "", ...spec };
    this.added = new Map(added.map((token) => [token.content, token.id]));
    this.pattern = partPattern(this.added.keys());
    this.merger = new Merger(merges, bytesOf, (part) => vocabulary.get(part));
  }

  ids(prompt) {
    const { prefix, suffix, length, pad_id } = this.spec;
    const ids = this.allIds(prefix + prompt + suffix).slice(0, length);
    return [...ids, ...Array(length - ids.length).fill(pad_id)];
  }

  /** How many ids are no padding. */
  count(prompt) {
    const { prefix, suffix, length } = this.spec;
    return Math.min(this.allIds(prefix + prompt + suffix).length, length);
  }

  /** How many of the prompt's ids are beyond `length`. */
  leftOut(prompt) {
    return Math.max(0, this.allIds(this.spec.prefix + prompt).length - this.spec.length);
  }

  allIds(text) {
    return text.split(this.pattern).flatMap((part) => this.partIds(part));
  }

  partIds(part) {
    if (this.added.has(part)) return [this.added.get(part)];
    return splitWords(part.normalize("NFC")).flatMap((word) => this.merger.ids(word));
  }
}

function kindOf(character) {
  if (character === "\r" || character === "\n") return "n";
  if (/\p{White_Space}/u.test(character)) return character === " " ? "b" : "s";
  return letterOrNumber(character);
}

/** The parts of `text` that PATTERN matches, which are all of it. */
function splitWords(text) {
  const characters = [...text];
  const kinds = characters.map(kindOf).join("");
  const words = [];
  for (let i = 0; i < characters.length; ) {
    WORD.lastIndex = i;
    CONTRACTION.lastIndex = 0;
    const contraction = CONTRACTION.exec(characters.slice(i, i + 3).join(""));
    const length = (contraction ?? WORD.exec(kinds))[0].length;
    words.push(characters.slice(i, i + length).join(""));
    i += length;
  }
  return words;
}

/** Throws for what is no BPE model. */
export function mergesAndVocabulary(model) {
  const merges = model.merges.map((merge) => (typeof merge === "string" ? merge.split(" ") : merge));
  for (const pair of merges) {
    if (pair.length !== 2 || pair.some((part) => typeof part !== "string")) {
      throw new TypeError("a merge is no pair of texts");
    }
  }
  return { merges, vocabulary: new Map(Object.entries(model.vocab).map(([token, id]) => [token, validId(id)])) };
}

/** Throws for what is no Qwen tokenizer.json. */
export function bpeFromJson(data, spec) {
  const [split, level, ...others] = data.pre_tokenizer.pretokenizers;
  if (split.pattern.Regex !== PATTERN || split.behavior !== "Isolated" || split.invert || others.length) {
    throw new TypeError("its text is split in another way than Qwen's");
  }
  const plain = level.type === "ByteLevel" && !level.use_regex && !level.add_prefix_space && !data.model.ignore_merges;
  if (data.normalizer.type !== "NFC" || !plain) throw new TypeError("it is no Qwen tokenizer");
  const { merges, vocabulary } = mergesAndVocabulary(data.model);
  const parts = [...ALPHABET, ...merges.map(([left, right]) => left + right)];
  if (parts.some((part) => !vocabulary.has(part))) throw new TypeError("its vocabulary lacks a part that merges give");
  const added = addedTokens(data);
  if (added.some((token) => token.normalized || token.lstrip || token.rstrip)) {
    throw new TypeError("an added token takes white space with it or stands in normalised text");
  }
  return new BpeTokenizer(vocabulary, merges, added, spec);
}
