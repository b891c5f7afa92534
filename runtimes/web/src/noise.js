/** Normal noise equal to torch.randn on a CPU generator, in arithmetic that every IEEE 754 machine agrees on. */

export const ALGORITHM = "torch-cpu-mt19937";
const SQRT_HALF = Math.sqrt(0.5);
const LN2_HIGH = 6.9314718036912381649e-1;
const LN2_LOW = 1.90821492927058770002e-10;
const WORDS = 624;
const SHIFT = 397;

/** The stream of torch.Generator("cpu").manual_seed(seed), as torch.randn draws from it.
 *
 * Only + - * / and sqrt of float64 are used, then one rounding to float32, so that the values do not depend on a
 * math library. They differ from torch's own by a few units of the last place.
 */
export class TorchNoise {
  /** `seed`: a whole number or a bigint, whose low 32 bits count. */
  constructor(seed) {
    this.state = seeded(Number(BigInt.asUintN(32, BigInt(seed))));
    this.next = WORDS;
  }

  /** Float32Array of `count` values, at least 16 (torch draws fewer in another way). */
  randn(count) {
    if (!(count >= 16)) throw new RangeError(`randn needs at least 16 values, got ${count}`);
    const uniform = this.uniform(count);
    const values = new Float32Array(count);
    for (let i = 0; i + 16 <= count; i += 16) boxMuller(uniform, i, values, i);
    if (count % 16) boxMuller(this.uniform(16), 0, values, count - 16); // torch draws the last 16 anew
    return values;
  }

  uniform(count) {
    const values = new Float64Array(count);
    for (let i = 0; i < count; i++) values[i] = (this.word() & 0xffffff) * 2 ** -24;
    return values;
  }

  word() {
    if (this.next === WORDS) {
      twist(this.state);
      this.next = 0;
    }
    let y = this.state[this.next++];
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    return (y ^ (y >>> 18)) >>> 0;
  }
}

/** MT19937's state after init_genrand(seed). */
function seeded(seed) {
  const state = new Uint32Array(WORDS);
  state[0] = seed;
  for (let i = 1; i < WORDS; i++) {
    const before = state[i - 1] ^ (state[i - 1] >>> 30);
    state[i] = Math.imul(1812433253, before) + i;
  }
  return state;
}

function twist(state) {
  for (let i = 0; i < WORDS; i++) {
    const y = (state[i] & 0x80000000) | (state[(i + 1) % WORDS] & 0x7fffffff);
    state[i] = state[(i + SHIFT) % WORDS] ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0);
  }
}

/** 16 uniforms from u[at] -> 16 normals from out[to]: values j and j + 8 make one pair. */
function boxMuller(u, at, out, to) {
  for (let j = 0; j < 8; j++) {
    const radius = Math.sqrt(-2.0 * log(1.0 - u[at + j]));
    const [cosine, sine] = cosSinTurns(u[at + j + 8]);
    out[to + j] = radius * cosine;
    out[to + j + 8] = radius * sine;
  }
}

/** Natural logarithm of 2^-24 <= x <= 1, a multiple of 2^-24: exact split into 2^e m, then the series of atanh. */
function log(x) {
  let e = 8 - Math.clz32(x * 16777216); // frexp: 0.5 <= m < 1
  let m = x / 2 ** e;
  if (m < SQRT_HALF) {
    m = 2.0 * m;
    e -= 1;
  }
  const s = (m - 1.0) / (m + 1.0);
  const square = s * s;
  let series = 1.0 / 21.0;
  for (let k = 19; k > 0; k -= 2) series = series * square + 1.0 / k;
  return e * LN2_HIGH + (e * LN2_LOW + 2.0 * s * series);
}

/** [cos, sin] of 2 pi u for 0 <= u < 1: exact reduction to an eighth of a turn, then Taylor series. */
function cosSinTurns(u) {
  const quarter = Math.floor(Math.floor(u * 8.0 + 1.0) / 2) % 4; // the nearest quarter turn
  const angle = (u - Math.floor(u * 4.0 + 0.5) / 4.0) * (2.0 * Math.PI);
  const square = angle * angle;
  const sine = taylor(square, 1) * angle;
  const cosine = taylor(square, 0);
  if (quarter === 0) return [cosine, sine];
  if (quarter === 1) return [-sine, cosine];
  return quarter === 2 ? [-cosine, -sine] : [sine, -cosine];
}

/** 1 - x^2/((first+1)(first+2)) + ... by Horner: the cosine for first = 0, sine / x for first = 1. */
function taylor(square, first) {
  let total = 1.0;
  for (let k = 16 + first; k > first; k -= 2) total = 1.0 - (square / (k * (k - 1.0))) * total;
  return total;
}
