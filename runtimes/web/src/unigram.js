/** T5's unigram tokenizer, and what it shares with CLIP's. */

const MOST_ADDED = 10_000; // tokens beside the vocabulary; textual inversions bring a few dozen
const LONGEST_PIECE = 200; // characters of a piece or an added token
const STEPS = ["Precompiled", "Strip", "Replace", "WhitespaceSplit", "Metaspace"]; // T5 skips Strip and Replace
const WORD = /▁?[^\p{White_Space}▁]+|▁/gu;
// Grapheme clusters over the first letters of the characters' categories; ODD has those that join unlike theirs.
const CLUSTER = /C|\+*[^C+]?M*/g;
const ODD = new Map([
  ..."\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\u0d4e\u{110bd}\u{110cd}",
].map((c) => [c, "+"]));
for (const c of "\u0e33\u0eb3\u200c\u200d\uff9e\uff9f🏻🏼🏽🏾🏿") ODD.set(c, "M");
for (const c of "\u2028\u2029") ODD.set(c, "C");
const UTF8 = new TextEncoder();

/** `ids[: length - 1] + [EOS]`, padded to `length`, as transformers' T5Tokenizer gives them. */
export class UnigramTokenizer {
  /** `vocabulary`: [piece, score] in the order of ids; `charsmap`: sentencepiece's normalizer, a Darts trie, then its
   * texts; `added`: Map of token -> id, tokens that may be written in a prompt. */
  constructor(vocabulary, charsmap, spec, unkId, added) {
    this.spec = spec;
    this.unkId = unkId;
    this.added = added;
    this.pieces = new Map(vocabulary.map(([piece, score], id) => [piece, { score, id }]));
    this.longest = vocabulary.reduce((most, [piece]) => Math.max(most, [...piece].length), 0);
    this.unknown = vocabulary.reduce((least, [, score]) => Math.min(least, score), Infinity) - 10;
    this.pattern = partPattern(added.keys());
    [this.trie, this.texts] = splitCharsmap(charsmap);
  }

  ids(prompt) {
    const { eos_id, pad_id, length } = this.spec;
    const ids = [...this.allIds(prompt).slice(0, length - 1), eos_id];
    return [...ids, ...Array(length - ids.length).fill(pad_id)];
  }

  /** How many ids are no padding. */
  count(prompt) {
    return Math.min(this.allIds(prompt).length + 1, this.spec.length);
  }

  /** How many of the prompt's ids are beyond `length`. */
  leftOut(prompt) {
    return Math.max(0, this.allIds(prompt).length - (this.spec.length - 1));
  }

  allIds(prompt) {
    return prompt.split(this.pattern).flatMap((part) => this.partIds(part));
  }

  partIds(part) {
    if (this.added.has(part)) return [this.added.get(part)];
    const characters = [...part];
    const kinds = characters.map(kindOf).join("");
    const clusters = Array.from(kinds.matchAll(CLUSTER), (m) => characters.slice(m.index, m.index + m[0].length));
    const text = clusters.map((cluster) => this.normalised(cluster)).join("");
    return (text.match(WORD) ?? []).flatMap((word) => this.best(`▁${word.replace(/^▁/, "")}`));
  }

  /** The text of the shortest prefix in the trie, as spm_precompiled has it; else that of each character. */
  normalised(cluster) {
    const key = [...UTF8.encode(cluster.join("")), 0];
    let node = 0;
    for (const byte of key.length < 7 ? key : []) {
      const unit = this.unit(node);
      const children = node ^ ((unit >>> 10) << ((unit >>> 6) & 8));
      if (unit & 256) return this.textAt(this.unit(children) & 0x7fffffff);
      node = children ^ byte;
      if ((this.unit(node) & 0x800000ff) !== byte) break;
    }
    return cluster.length > 1 ? cluster.map((c) => this.normalised([c])).join("") : cluster.join("");
  }

  unit(node) {
    if (!(node >= 0 && node < this.trie.length)) throw new RangeError("the charsmap's trie leads out of it");
    return this.trie[node];
  }

  textAt(offset) {
    const rest = this.texts.subarray(offset);
    const end = rest.indexOf(0);
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(end < 0 ? rest : rest.subarray(0, end));
  }

  /** The pieces with the best sum of scores (Viterbi); neighbouring unknown characters become one. */
  best(word) {
    const characters = [...word];
    const best = [{ score: 0, id: 0, start: 0 }]; // for each end: score, last piece and its start
    for (let i = 0; i < characters.length; i++) best.push({ score: -Infinity, id: 0, start: 0 });
    for (let start = 0; start < characters.length; start++) {
      let piece = "";
      for (let end = start + 1; end <= Math.min(start + this.longest, characters.length); end++) {
        piece += characters[end - 1];
        const found = this.pieces.get(piece);
        const score = best[start].score + (found?.score ?? (end === start + 1 ? this.unknown : -Infinity));
        if (score > best[end].score) best[end] = { score, id: found?.id ?? this.unkId, start };
      }
    }
    return this.walkBack(best);
  }

  walkBack(best) {
    const ids = [];
    for (let end = best.length - 1; end > 0; end = best[end].start) {
      const { id } = best[end];
      if (id !== this.unkId || id !== ids.at(-1)) ids.push(id);
    }
    return ids.reverse();
  }
}

function kindOf(character) {
  const odd = ODD.get(character);
  if (odd) return odd;
  return /\p{C}/u.test(character) ? "C" : /\p{M}/u.test(character) ? "M" : "L";
}

/** [the trie's units, the texts' bytes]. */
function splitCharsmap(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const size = bytes.length >= 4 ? view.getUint32(0, true) : 0;
  if (bytes.length < size) throw new RangeError(`a charsmap of ${bytes.length} bytes cannot hold a trie of ${size}`);
  const count = Math.min(Math.floor(size / 4), Math.floor((bytes.length - 4) / 4));
  const trie = Int32Array.from({ length: Math.max(0, count) }, (_, i) => view.getUint32(4 + 4 * i, true));
  return [trie.length ? trie : new Int32Array(256), bytes.subarray(size + 4)];
}

export function validId(value) {
  if (!Number.isInteger(value) || value < 0 || value >= 2 ** 31) {
    throw new RangeError("a token's id is no whole number of 0 to 2^31 - 1");
  }
  return value;
}

/** The tokens that stand for themselves; throws for those that no prompt could hold, or more than any model adds. */
export function addedTokens(data) {
  const found = data.added_tokens.map((token) => ({ normalized: false, ...token }));
  const fits = (text) => typeof text === "string" && text !== "" && [...text].length <= LONGEST_PIECE;
  if (found.length > MOST_ADDED || !found.every((token) => fits(token.content))) {
    throw new RangeError(`added tokens must be ${MOST_ADDED} texts at most, of 1 to ${LONGEST_PIECE} characters`);
  }
  found.forEach((token) => validId(token.id));
  return found;
}

/** Any of the tokens, the longest first; texts split by it keep them. */
export function partPattern(tokens) {
  const longestFirst = [...tokens].sort((a, b) => [...b].length - [...a].length);
  const escaped = longestFirst.map((token) => token.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&"));
  return new RegExp(`(${escaped.join("|") || "(?!)"})`, "u");
}

/** Throws for what is no T5 tokenizer.json. */
export function unigramFromJson(data, spec) {
  const { model, added_tokens: _, pre_tokenizer: splitter } = data;
  const normalizer = data.normalizer ?? { normalizers: [] };
  const steps = [...(normalizer.normalizers ?? [normalizer]), ...(splitter.pretokenizers ?? [splitter])];
  const kinds = steps.map((step) => step.type);
  if (model.type !== "Unigram" || !kinds.includes("Metaspace") || !kinds.every((kind) => STEPS.includes(kind))) {
    throw new TypeError(`a ${model.type} model after ${kinds} is no T5 tokenizer`);
  }
  const map = steps.findLast((step) => step.type === "Precompiled")?.precompiled_charsmap ?? "";
  const charsmap = Uint8Array.from(atob(map), (c) => c.charCodeAt(0));
  if (!Number.isInteger(model.unk_id) || !(model.unk_id in model.vocab)) throw new RangeError("unk_id is no piece's");
  const fits = ([piece, score]) =>
    typeof piece === "string" && piece !== "" && [...piece].length <= LONGEST_PIECE && typeof score === "number";
  if (!model.vocab.every((row) => row.length === 2 && fits(row))) {
    throw new TypeError(`a vocabulary's pieces must be texts of 1 to ${LONGEST_PIECE} characters with a score each`);
  }
  const added = new Map(addedTokens(data).map((token) => [token.content, token.id]));
  return new UnigramTokenizer(model.vocab, charsmap, spec, model.unk_id, added);
}
