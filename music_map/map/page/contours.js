// The islands: lines of equal density of the songs, drawn below them. Pure functions over positions.
"use strict";

const CELLS = 192;
// Shares of the songs that lie within the lines, from the shore to the peaks.
const WITHIN = [0.97, 0.8, 0.55, 0.3];

// Songs about each corner of a grid over the map, smoothed by three boxes (nearly a Gaussian).
function densityOf(x, y) {
  const count = x.length;
  let [left, right, low, high] = [Infinity, -Infinity, Infinity, -Infinity];
  for (let i = 0; i < count; i++) {
    left = Math.min(left, x[i]); right = Math.max(right, x[i]); low = Math.min(low, y[i]); high = Math.max(high, y[i]);
  }
  const size = Math.max(right - left, high - low, 1e-6), step = (1.16 * size) / CELLS;
  // The bandwidth becomes smaller with the sixth root of the songs: Scott's rule in two dimensions.
  const radius = Math.max(1, Math.round((0.055 * size) / count ** (1 / 6) / step));
  const x0 = (left + right) / 2 - (CELLS * step) / 2, y0 = (low + high) / 2 - (CELLS * step) / 2, wide = CELLS + 1;
  let grid = new Float32Array(wide * wide), other = new Float32Array(wide * wide);
  for (let i = 0; i < count; i++) grid[Math.round((y[i] - y0) / step) * wide + Math.round((x[i] - x0) / step)] += 1;
  for (let pass = 0; pass < 6; pass++) {  // along rows, and transposed: three times each
    for (let row = 0; row < wide; row++) {
      let sum = 0;
      for (let at = -radius; at < wide; at++) {
        if (at + radius < wide) sum += grid[row * wide + at + radius];
        if (at - radius - 1 >= 0) sum -= grid[row * wide + at - radius - 1];
        if (at >= 0) other[at * wide + row] = sum;
      }
    }
    [grid, other] = [other, grid];
  }
  return { grid, wide, step, x0, y0 };
}

// The densities that the shares of the songs in WITHIN lie above.
function levelsOf({ grid, wide, step, x0, y0 }, x, y) {
  const every = Math.max(1, Math.floor(x.length / 20_000)), found = [];
  for (let i = 0; i < x.length; i += every) found.push(grid[Math.round((y[i] - y0) / step) * wide + Math.round((x[i] - x0) / step)]);
  found.sort((a, b) => b - a);
  return WITHIN.map((share) => Math.max(1e-3, found[Math.floor(share * (found.length - 1))]));
}

// Closed lines where the density is `level`, as lists [x, y, x, y, ...] in the map's units: marching squares. The grid's
// border is empty, so that every line ends where it began.
function ringsOf({ grid, wide, step, x0, y0 }, level) {
  // Edges are named by the corner they start from: 2 c to the right of corner c, 2 c + 1 above it.
  const next = new Map(), put = (from, to) => { if (next.has(from)) next.get(from).push(to); else next.set(from, [to]); };
  for (let row = 0; row + 1 < wide; row++) {
    for (let column = 0; column + 1 < wide; column++) {
      const c = row * wide + column;
      const [a, b, d, e] = [grid[c] > level, grid[c + 1] > level, grid[c + wide + 1] > level, grid[c + wide] > level];
      const [down, right, up, left] = [2 * c, 2 * (c + 1) + 1, 2 * (c + wide), 2 * c + 1];
      // Each line has the high ground on its left.
      switch (a + 2 * b + 4 * d + 8 * e) {
        case 1: put(down, left); break;
        case 2: put(right, down); break;
        case 3: put(right, left); break;
        case 4: put(up, right); break;
        case 5: put(down, left); put(up, right); break;
        case 6: put(up, down); break;
        case 7: put(up, left); break;
        case 8: put(left, up); break;
        case 9: put(down, up); break;
        case 10: put(right, down); put(left, up); break;
        case 11: put(right, up); break;
        case 12: put(left, right); break;
        case 13: put(down, right); break;
        case 14: put(left, down); break;
      }
    }
  }
  const place = (edge) => {
    const c = edge >> 1, other = edge & 1 ? c + wide : c + 1;
    const part = (level - grid[c]) / (grid[other] - grid[c]), row = Math.floor(c / wide), column = c % wide;
    return [x0 + step * (column + (edge & 1 ? 0 : part)), y0 + step * (row + (edge & 1 ? part : 0))];
  };
  const rings = [];
  for (const [start, waiting] of next) {
    while (waiting.length) {
      const ring = [];
      let edge = start;
      do { ring.push(...place(edge)); edge = next.get(edge)?.pop(); } while (edge !== undefined && edge !== start);
      if (ring.length > 8) rings.push(ring);
    }
  }
  return rings;
}

function contoursOf(x, y) {
  if (x.length < 30) return [];
  const density = densityOf(x, y);
  return levelsOf(density, x, y).map((level) => ringsOf(density, level));
}

if (typeof module !== "undefined") module.exports = { densityOf, levelsOf, ringsOf, contoursOf, WITHIN };
