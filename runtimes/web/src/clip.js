/** CLIP's byte-level BPE tokenizer. */

import { bytesOf, letterOrNumber, mergesAndVocabulary, Merger } from "./bpe.js";
import { addedTokens, partPattern } from "./unigram.js";

const WORD = /L+|N|\.+/y; // over the characters' kinds
const CONTRACTIONS = ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d"];
/** `[BOS] + ids[: length - 2] + [EOS]`, padded to `length`, as transformers' CLIPTokenizer gives them. */
export class ClipTokenizer {
  /** `vocabulary`: Map of token -> id; `merges`: pairs in the order they are applied; `added` tokens stand for
   * themselves in a prompt, as written or, where tokenizer.json calls them `normalized`, in normalised text.
   * A learned word of several vectors is several tokens, WORD, WORD_1, WORD_2 ...: WORD alone stands for all. */
  constructor(vocabulary, merges, added, spec) {
    this.vocabulary = vocabulary;
    this.spec = spec;
    this.merger = new Merger(merges, (word) => this.wordParts(word), (part) => this.vocabulary.get(part) ?? spec.eos_id);
    this.written = new Map(added.filter((t) => !t.normalized).map((t) => [t.content, t.id]));
    this.normal = new Map(added.filter((t) => t.normalized).map((t) => [normalise(t.content), t.id]));
    this.writtenPattern = partPattern(this.written.keys());
    this.normalPattern = partPattern(this.normal.keys());
    const inOrder = [...added].sort((a, b) => Number(a.normalized) - Number(b.normalized));
    this.several = severalTokens(new Map(inOrder.map((t) => [t.content, t.id])));
  }

  ids(prompt) {
    const { bos_id, eos_id, pad_id, length } = this.spec;
    const ids = [bos_id, ...this.allIds(prompt).slice(0, length - 2), eos_id];
    return [...ids, ...Array(length - ids.length).fill(pad_id)];
  }

  /** How many ids are no padding. */
  count(prompt) {
    return Math.min(this.allIds(prompt).length + 2, this.spec.length);
  }

  /** How many of the prompt's ids are beyond `length`. */
  leftOut(prompt) {
    return Math.max(0, this.allIds(prompt).length - (this.spec.length - 2));
  }

  allIds(prompt) {
    const ids = this.plainIds(prompt);
    const found = this.several.filter(({ id }) => ids.includes(id));
    const written = found.reduce((text, { word, all }) => text.replaceAll(word, () => all), prompt);
    return found.length ? this.plainIds(written) : ids;
  }

  plainIds(prompt) {
    return prompt.split(this.writtenPattern).flatMap((part) => this.partIds(part));
  }

  partIds(part) {
    if (this.written.has(part)) return [this.written.get(part)];
    const texts = normalise(part).split(this.normalPattern);
    return texts.flatMap((text) =>
      this.normal.has(text) ? [this.normal.get(text)] : splitWords(text).flatMap((word) => this.merger.ids(word)),
    );
  }

  wordParts(word) {
    const parts = bytesOf(word);
    parts[parts.length - 1] += "</w>";
    return parts;
  }
}

/** Each added word that has more tokens, WORD_1, WORD_2 ...: {word, id, all: "WORD WORD_1 WORD_2"}. */
function severalTokens(added) {
  const found = [];
  for (const [word, id] of added) {
    const words = [word];
    while (added.has(`${word}_${words.length}`)) words.push(`${word}_${words.length}`);
    if (words.length > 1) found.push({ word, id, all: words.join(" ") });
  }
  return found;
}

/** NFC, runs of white space to one space, lower case code point by code point (no final-sigma rule). */
export function normalise(text) {
  const blank = text.normalize("NFC").replace(/\p{White_Space}+/gu, " ");
  return Array.from(blank, (c) => c.toLowerCase()).join("");
}

/** One of " " (white space), "L" (letter), "N" (number), "." (anything else). */
function kindOf(character) {
  return /\p{White_Space}/u.test(character) ? " " : letterOrNumber(character);
}

/** CLIP's pattern: contractions, runs of letters, single numbers, runs of anything else. */
function splitWords(text) {
  const characters = [...text];
  const kinds = characters.map(kindOf).join("");
  const words = [];
  for (let i = 0; i < characters.length; ) {
    const ahead = characters.slice(i, i + 3).join("");
    const contraction = CONTRACTIONS.find((c) => ahead.startsWith(c));
    WORD.lastIndex = i;
    const length = contraction?.length ?? WORD.exec(kinds)?.[0].length;
    if (length) words.push(characters.slice(i, i + length).join(""));
    i += length ?? 1;
  }
  return words;
}

/** Throws for what is no CLIP tokenizer.json. */
export function clipFromJson(data, spec) {
  const { merges, vocabulary } = mergesAndVocabulary(data.model);
  return new ClipTokenizer(vocabulary, merges, addedTokens(data), spec);
}
