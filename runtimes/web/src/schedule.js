/** The schedule as a table, Q-Sched's coefficients as two more columns of it, and the update in float32.
 *
 * Every + - * / of latents is rounded to float32 in the order that docs/bundle.md gives: values equal numpy's.
 */

import { BundleError } from "./errors.js";

const f32 = Math.fround;
const MOST_MU = 100;
const COLUMNS = ["timesteps", "c_in", "a", "b", "c", "start_x0", "start_noise"];

/** BundleError unless the columns are `steps` long and values for each channel fit `channels`. */
export function checkSchedule(table, steps, channels) {
  const wrong = COLUMNS.find((name) => table[name].length !== steps);
  if (wrong) throw new BundleError(`the schedule of ${steps} steps has ${table[wrong].length}: make the bundle again`);
  for (const name of ["c_x", "c_eps", "bias"]) checkColumn(name, table[name], steps, channels);
  if (table.stock) checkSchedule(table.stock, steps, channels);
  if (table.shift && !table.start_noise.every((sigma) => sigma > 0 && sigma <= 1)) {
    throw new BundleError("a schedule that shifts must have start_noise in 0..1: make the bundle again");
  }
}

/** The table for pictures of so many latents, height x width: where the schedule shifts with the size, exp(mu)
 * multiplies sigma / (1 - sigma). At the size that the table was made for it is the table itself. */
export function shifted(table, latents) {
  const movedBy = table.shift ? muAt(table.shift, latents) - table.shift.mu : 0;
  if (movedBy === 0) return table;
  const ratio = Math.exp(movedBy);
  const last = table.start_noise.at(-1) + table.b.at(-1);
  const moved = [...table.start_noise, last].map((sigma) => (ratio * sigma) / (1 + (ratio - 1) * sigma));
  return {
    ...table,
    timesteps: table.timesteps.map((t, i) => (t * moved[i]) / table.start_noise[i]),
    b: table.b.map((_, i) => moved[i + 1] - moved[i]),
    start_x0: table.b.map((_, i) => 1 - moved[i]),
    start_noise: moved.slice(0, -1),
  };
}

function muAt({ lines }, latents) {
  const line = lines.find((each) => latents <= each.latents) ?? lines.at(-1);
  const mu = line.slope * latents + line.intercept;
  if (Math.abs(mu) > MOST_MU) {
    throw new BundleError(`${latents} latents shift the schedule by ${mu}: the bundle is not made for such a size`);
  }
  return mu;
}

function checkColumn(name, column, steps, channels) {
  if (column === undefined) return;
  if (column.length !== steps) {
    throw new BundleError(`coefficients for ${column.length} steps do not fit a schedule of ${steps}`);
  }
  const widths = new Set(column.map((row) => (Array.isArray(row) ? row.length : 0)));
  const [width] = widths;
  if (widths.size !== 1) throw new BundleError(`${name} is malformed: its rows differ in length`);
  if (width > 1 && width !== channels) {
    throw new BundleError(`${name} has ${width} channels, the latents ${channels}`);
  }
}

/** A table with its coefficients multiplied in. */
export class Schedule {
  /** `table`: one of the manifest's schedules; `coefficients`, {c_x, c_eps, bias?}, replace its own. */
  constructor(table, coefficients = table) {
    this.table = table;
    this.length = table.timesteps.length;
    this.a = perChannel(table.a, coefficients.c_x);
    this.b = perChannel(table.b, coefficients.c_eps);
    this.bias = perChannel(table.a.map(() => 1), coefficients.bias ?? table.a.map(() => 0));
  }

  timestep(i) {
    return this.table.timesteps[i];
  }

  drawsNoise(i) {
    return this.table.c[i] !== 0;
  }

  scaleModelInput(x, i) {
    return scaled(x, this.table.c_in[i]);
  }

  /** Latents of a picture, noised to where step i begins. */
  noised(x0, z, i) {
    const [s, n] = [f32(this.table.start_x0[i]), f32(this.table.start_noise[i])];
    return x0.map((value, j) => f32(s * value) + f32(n * z[j]));
  }

  /** The latents after step i: x, e and z (null where the step draws none) are Float32Array [B, C, h, w]. */
  step(x, e, z, i, [, channels, height, width]) {
    const [a, b, bias, c] = [this.a[i], this.b[i], this.bias[i], f32(this.table.c[i])];
    const biased = bias.some((value) => value !== 0);
    const next = new Float32Array(x.length);
    for (let j = 0; j < x.length; j++) {
      const channel = Math.floor(j / (height * width)) % channels;
      let value = f32(f32(at(a, channel) * x[j]) + f32(at(b, channel) * e[j]));
      if (z) value = f32(value + f32(c * z[j]));
      next[j] = biased ? f32(value + at(bias, channel)) : value;
    }
    return next;
  }

  /** The finished latents as step i, from `x` to `next`, sees them; after the last step `next` itself.
   *
   * Before the step x = s x0 + n eps; what it makes without fresh noise is s' x0 + m eps with m^2 = n'^2 - c^2.
   */
  estimate(x, z, next, i, [, channels, height, width]) {
    const { table } = this;
    if (i + 1 >= this.length) return next;
    const [s, n, after] = [table.start_x0[i], table.start_noise[i], table.start_x0[i + 1]];
    const m = Math.sqrt(Math.max(table.start_noise[i + 1] ** 2 - table.c[i] ** 2, 0));
    const both = n * after - m * s;
    if (Math.abs(both) < 1e-6 * Math.max(Math.abs(n), Math.abs(m), 1e-6)) return next;
    const [forward, back, c] = [f32(n / both), f32(m / both), f32(table.c[i])];
    return next.map((value, j) => {
      const bias = at(this.bias[i], Math.floor(j / (height * width)) % channels);
      const bare = z ? f32(f32(value - bias) - f32(c * z[j])) : f32(value - bias);
      return f32(forward * bare) - f32(back * x[j]);
    });
  }
}

/** Numbers for each step, or lists of one for each channel, times the base -> Float32Array for each step. */
function perChannel(base, factor) {
  return factor.map((row, i) => Float32Array.from([row].flat(), (value) => value * base[i]));
}

function at(row, channel) {
  return row.length === 1 ? row[0] : row[channel];
}

/** x times a number, in float32. */
export function scaled(x, factor) {
  const f = f32(factor);
  return x.map((value) => f * value);
}
