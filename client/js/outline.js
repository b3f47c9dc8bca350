/**
 * Converts a mask to polygons along the edges of its pixels, slightly smoothed. Filled, they are the mask within a pixel
 * of its border: no object and no hole is lost, however small. Does not know about files.
 */

/** @typedef {[number, number]} Point x, y */
/** @typedef {Point[]} Ring */
/** @typedef {{polygons: Ring[], holes: Ring[]}} Outline outer rings, and those of holes */
/** @typedef {(x: number, y: number) => boolean} Inside */

const TOLERANCE = 1; // pixel; removes the steps from slopes
const WIDE = 5; // pixels; what is narrower moves by less than TOLERANCE, see `room`
const STEPS = [[1, 0], [0, 1], [-1, 0], [0, -1]]; // east, south, west, north
const CELLS = [[0, 0], [-1, 0], [-1, -1], [0, -1]]; // the cell ahead of a corner on the right, by direction

/**
 * Rings of [x, y] in pixels of the picture, as in the server's mask_format "polygons". Not smoothed, they follow the edges
 * of the pixels exactly.
 * @param {Uint8Array} bitmap 0 and 1, row by row
 * @param {import("./rle.js").Size} size
 * @param {{smooth?: boolean}} [options]
 * @returns {Outline}
 */
export function outline(bitmap, { width, height }, { smooth = true } = {}) {
  /** @type {Inside} */
  const inside = (x, y) => x >= 0 && y >= 0 && x < width && y < height && bitmap[y * width + x] === 1;
  const seen = new Uint8Array(width * height); // pixels whose upper edge belongs to a ring
  /** @type {Ring[]} */
  const polygons = [];
  /** @type {Ring[]} */
  const holes = [];
  for (let at = 0; at < bitmap.length; at++) {
    const x = at % width, y = (at - x) / width;
    if (!bitmap[at] || seen[at] || inside(x, y - 1)) continue;
    const { ring, rooms } = follow(x, y, inside, seen, width);
    const drawn = smooth ? simplify(ring, rooms) : ring, sign = Math.sign(area(ring));
    // A ring that crosses itself once points are left out can end with an area of zero.
    (sign > 0 ? polygons : holes).push(area(drawn) * sign > 0 ? drawn : ring);
  }
  return { polygons, holes };
}

/**
 * Join rings to one, by lines there and back that enclose nothing, for formats that have one ring for an object. By the
 * even-odd rule the result has the pixels of all rings: holes stay holes.
 * @param {Ring[]} rings at least one
 */
export function joined([first, ...others]) {
  const whole = [...first];
  for (const ring of others) {
    const to = nearest(whole, ring[0]), from = nearest(ring, whole[to]);
    const turned = [...ring.slice(from), ...ring.slice(0, from)];
    const touches = turned[0].every((value, axis) => value === whole[to][axis]);
    const added = touches ? [...turned.slice(1), turned[0]] : [...turned, turned[0], whole[to]];
    whole.splice(to + 1, 0, ...added);
  }
  return whole;
}

/**
 * @param {Ring} points
 * @param {Point} point
 */
function nearest(points, [x0, y0]) {
  let best = 0, least = Infinity;
  for (const [at, [x, y]] of points.entries()) {
    const squared = (x - x0) ** 2 + (y - y0) ** 2;
    if (squared < least) [best, least] = [at, squared];
  }
  return best;
}

/**
 * The corners of a ring, and how far each may move. The mask is on its right-hand side.
 * @param {number} x0
 * @param {number} y0
 * @param {Inside} inside
 * @param {Uint8Array} seen
 * @param {number} width
 */
function follow(x0, y0, inside, seen, width) {
  /** @type {Ring} */
  const ring = [];
  /** @type {number[]} */
  const edges = []; // the edge at the same place ends at the corner
  let x = x0, y = y0, way = 0, narrowest = WIDE;
  do {
    if (way === 0) seen[y * width + x] = 1;
    narrowest = Math.min(narrowest, narrower(x + CELLS[way][0], y + CELLS[way][1], (way + 3) % 4, inside));
    x += STEPS[way][0];
    y += STEPS[way][1];
    const [right, left] = [way, (way + 3) % 4].map((cell) => inside(x + CELLS[cell][0], y + CELLS[cell][1]));
    if (right && !left) continue;
    ring.push([x, y]);
    edges.push(narrowest);
    narrowest = WIDE;
    way = (way + (right ? 3 : 1)) % 4;
  } while (x !== x0 || y !== y0 || way !== 0);
  return { ring, rooms: edges.map((edge, at) => room(Math.min(edge, edges[(at + 1) % edges.length]))) };
}

/**
 * Pixels across an edge until the object ends or the background does, the fewer, at most WIDE.
 * @param {number} x
 * @param {number} y
 * @param {number} outwards
 * @param {Inside} inside
 */
function narrower(x, y, outwards, inside) {
  const [dx, dy] = STEPS[outwards];
  let pixels = 1;
  while (pixels < WIDE && inside(x - dx * pixels, y - dy * pixels) && !inside(x + dx * (pixels + 1), y + dy * (pixels + 1))) pixels++;
  return pixels;
}

/**
 * Pixels by which an edge may move. Both sides of what is narrow move, on slopes by root 2 along an axis.
 * @param {number} pixels
 */
const room = (pixels) => Math.min(TOLERANCE, 0.32 * Math.max(pixels - 1, 1));

/** @param {Ring} ring */
function area(ring) {
  let twice = 0, [x0, y0] = ring[ring.length - 1];
  for (const [x, y] of ring) {
    twice += x0 * y - x * y0;
    [x0, y0] = [x, y];
  }
  return twice / 2;
}

/**
 * From a point to the line between two others.
 * @param {Point} point
 * @param {Point} start
 * @param {Point} stop
 */
function distance([x, y], [ax, ay], [bx, by]) {
  const dx = bx - ax, dy = by - ay, squared = dx * dx + dy * dy;
  const place = squared && Math.min(1, Math.max(0, ((x - ax) * dx + (y - ay) * dy) / squared));
  return Math.hypot(x - ax - place * dx, y - ay - place * dy);
}

/**
 * The algorithm of Douglas and Peucker, with a tolerance for each point. At least three points stay.
 * @param {Ring} ring
 * @param {number[]} rooms
 */
function simplify(ring, rooms) {
  const last = ring.length, closed = [...ring, ring[0]];
  /** @type {(from: number, to: number, start: Point, stop: Point, weight: (at: number) => number) => {far: number, most: number}} */
  const farthest = (from, to, start, stop, weight) => {
    let far = 0, most = 0;
    for (let at = from + 1; at < to; at++) {
      const off = distance(closed[at], start, stop) / weight(at);
      if (off > most) [far, most] = [at, off];
    }
    return { far, most };
  };
  const even = () => 1;
  const opposite = farthest(0, last, ring[0], ring[0], even).far;
  const aside = farthest(0, last, ring[0], ring[opposite], even).far;
  const keep = new Set([0, opposite, aside, last]);
  const corners = [...keep].sort((one, other) => one - other);
  const spans = corners.slice(1).map((to, at) => [corners[at], to]);
  for (let span; (span = spans.pop());) {
    const [from, to] = span;
    const { far, most } = farthest(from, to, closed[from], closed[to], (at) => rooms[at]);
    if (most <= 1) continue;
    keep.add(far);
    spans.push([from, far], [far, to]);
  }
  return ring.filter((_, at) => keep.has(at));
}
