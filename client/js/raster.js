/** Draws the runs of a mask at the screen's own resolution. Does not know about the DOM. */

/**
 * A colour "#rrggbb" with an opacity 0..1 as one pixel of ImageData.
 * @param {string} colour
 * @param {number} opacity
 */
export function pixel(colour, opacity) {
  const [red, green, blue] = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
  return (Math.round(opacity * 255) << 24 | blue << 16 | green << 8 | red) >>> 0;
}

/**
 * Draw a mask with its outline into `target` {pixels: Uint32Array, width, height}, at the position that `view` gives.
 *
 * First marks only the ends of runs. Then one pass over the mask's box fills between them. So the cost depends on the
 * mask's box on the screen, not on the picture's size.
 * @param {{ends: Uint32Array, bbox: number[]}} mask
 * @param {import("./rle.js").Size} picture
 * @param {{scale: number, x: number, y: number}} view
 * @param {{pixels: Uint32Array, width: number, height: number}} target
 * @param {{fill: number, edge: number, thickness: number}} pen values of `pixel`, and device pixels
 */
export function paint({ ends, bbox }, { width, height }, view, target, { fill, edge, thickness }) {
  const { scale } = view;
  const clip = (/** @type {number} */ value, /** @type {number} */ most) => Math.min(Math.max(Math.round(value), 0), most);
  const left = clip(bbox[0] * scale + view.x - 1, target.width);
  const right = clip((bbox[0] + bbox[2]) * scale + view.x + 2, target.width);
  const top = clip(bbox[1] * scale + view.y - 1, target.height);
  const bottom = clip((bbox[1] + bbox[3]) * scale + view.y + 2, target.height);
  const columns = right - left, rows = bottom - top;
  if (columns <= 0 || rows <= 0) return;

  const toggles = new Uint8Array(columns * (rows + 1)); // the extra row is for runs that end below
  const place = (/** @type {number} */ y) => clip(y * scale + view.y - top, rows) * columns;
  for (let column = 0, run = 0; column < columns; column++) {
    const x = Math.floor((left + column + 0.5 - view.x) / scale);
    if (x < 0 || x >= width) continue;
    const start = x * height, end = start + height;
    while (ends[run] <= start) run++;
    for (let at = run; ; at++) {
      if (at & 1) {
        toggles[place(Math.max(ends[at - 1], start) - start) + column] ^= 1;
        toggles[place(Math.min(ends[at], end) - start) + column] ^= 1;
      }
      if (ends[at] >= end) break;
    }
  }

  const inside = new Uint8Array(columns);
  for (let row = 0, toggle = 0; row < rows; row++) {
    let before = 0;
    const line = (top + row) * target.width + left;
    for (let column = 0; column < columns; column++) {
      const turned = toggles[toggle++];
      const now = inside[column] ^= turned;
      const at = line + column;
      if (now) target.pixels[at] = fill;
      if (turned) for (let up = 0; up < Math.min(thickness, row + 1); up++) target.pixels[at - up * target.width] = edge;
      if (now !== before) for (let back = 0; back < Math.min(thickness, column + 1); back++) target.pixels[at - back] = edge;
      before = now;
    }
  }
}
