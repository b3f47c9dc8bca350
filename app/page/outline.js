/** Converts a mask to polygons along the edges of its pixels, slightly smoothed. Does not know about files. */

const TOLERANCE = 1; // pixel; removes the steps from slopes
const STEPS = [[1, 0], [0, 1], [-1, 0], [0, -1]]; // east, south, west, north
const CELLS = [[0, 0], [-1, 0], [-1, -1], [0, -1]]; // the cell ahead of a corner on the right, by direction

/** {polygons, holes}: rings of [x, y] in pixels of the picture, as in the server's mask_format "polygons". */
export function outline(bitmap, { width, height }) {
  const inside = (x, y) => x >= 0 && y >= 0 && x < width && y < height && bitmap[y * width + x];
  const seen = new Uint8Array(width * height); // pixels whose upper edge belongs to a ring
  const polygons = [], holes = [];
  for (let at = 0; at < bitmap.length; at++) {
    const x = at % width, y = (at - x) / width;
    if (!bitmap[at] || seen[at] || inside(x, y - 1)) continue;
    const ring = follow(x, y, inside, seen, width);
    const smooth = simplify(ring);
    if (smooth.length > 2) (area(ring) > 0 ? polygons : holes).push(smooth);
  }
  return { polygons, holes };
}

/** The corners of a ring. The mask is on its right-hand side. */
function follow(x0, y0, inside, seen, width) {
  const ring = [];
  let x = x0, y = y0, way = 0;
  do {
    if (way === 0) seen[y * width + x] = 1;
    x += STEPS[way][0];
    y += STEPS[way][1];
    const [right, left] = [way, (way + 3) % 4].map((cell) => inside(x + CELLS[cell][0], y + CELLS[cell][1]));
    if (right && !left) continue;
    ring.push([x, y]);
    way = (way + (right ? 3 : 1)) % 4;
  } while (x !== x0 || y !== y0 || way !== 0);
  return ring;
}

const area = (ring) => ring.reduce((sum, [x, y], at) => sum + ring.at(at - 1)[0] * y - x * ring.at(at - 1)[1], 0) / 2;

/** The algorithm of Douglas and Peucker, on both halves of the ring. */
function simplify(ring) {
  const half = ring.length >> 1;
  const closed = [...ring, ring[0]];
  const keep = new Set([0, half]);
  const spans = [[0, half], [half, ring.length]];
  for (let span; (span = spans.pop());) {
    const [from, to] = span, [ax, ay] = closed[from], [bx, by] = closed[to];
    const length = Math.hypot(bx - ax, by - ay);
    let far = 0, worst = TOLERANCE;
    for (let at = from + 1; at < to; at++) {
      const [x, y] = closed[at];
      const off = length ? Math.abs((bx - ax) * (y - ay) - (by - ay) * (x - ax)) / length : Math.hypot(x - ax, y - ay);
      if (off > worst) [far, worst] = [at, off];
    }
    if (!far) continue;
    keep.add(far);
    spans.push([from, far], [far, to]);
  }
  return ring.filter((_, at) => keep.has(at));
}
