/**
 * Draws many masks at the screen's own resolution: first which mask is on top of each pixel, then all colours at once. Chooses
 * the colours so that neighbours differ. Does not know about the DOM.
 */

/**
 * Write the number of the topmost mask of each pixel into `labels` (Uint16Array, width x height of the screen), 0 where
 * there is none. `layers` are {ends, bbox, label}; later ones lie on top. Labels are stored column by column, as runs are:
 * so a run is one fill, and the cost depends on the runs on the screen, not on the picture's size.
 */
export function layLabels(labels, layers, { width, height }, view, screen) {
  const { scale } = view;
  const clip = (value, most) => Math.min(Math.max(Math.round(value), 0), most);
  labels.fill(0);
  for (const { ends, bbox, label } of layers) {
    const left = clip(bbox[0] * scale + view.x - 1, screen.width);
    const right = clip((bbox[0] + bbox[2]) * scale + view.x + 1, screen.width);
    for (let column = left, run = 0; column < right; column++) {
      const x = Math.floor((column + 0.5 - view.x) / scale);
      if (x < 0 || x >= width) continue;
      const start = x * height, end = start + height, line = column * screen.height;
      const row = (y) => line + clip(y * scale + view.y, screen.height);
      while (ends[run] <= start) run++;
      for (let at = run; ; at++) {
        if (at & 1) labels.fill(label, row(Math.max(ends[at - 1], start) - start), row(Math.min(ends[at], end) - start));
        if (ends[at] >= end) break;
      }
    }
  }
}

/** Colour `pixels` (Uint32Array, row by row, all 0) by `fills` and, within `thickness` of another label, `edges`: pixels by label. */
export function colourLabels(pixels, labels, { width, height }, { fills, edges, thickness }) {
  for (let x = 0; x < width; x++) {
    const line = x * height;
    const before = Math.max(x - thickness, 0) * height, after = Math.min(x + thickness, width - 1) * height;
    for (let y = 0, at = x; y < height; y++, at += width) {
      const label = labels[line + y];
      if (!label) continue; // `pixels` are transparent at first
      const inner = labels[before + y] === label && labels[after + y] === label &&
        labels[line + Math.max(y - thickness, 0)] === label && labels[line + Math.min(y + thickness, height - 1)] === label;
      pixels[at] = inner ? fills[label] : edges[label];
    }
  }
}

/** Whether a mask has the pixel [x, y]. */
export function holds({ ends, bbox: [left, top, width, height] }, [x, y], size) {
  if (x < left || y < top || x >= left + width || y >= top + height) return false;
  const pixel = x * size.height + y;
  let low = 0, high = ends.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (ends[middle] <= pixel) low = middle + 1;
    else high = middle;
  }
  return (low & 1) === 1;
}

/** Okabe and Ito's colours, which the colour-blind can tell apart, and Tol's indigo. */
export const PALETTE = ["#56b4e9", "#e69f00", "#009e73", "#cc79a7", "#f0e442", "#d55e00", "#0072b2", "#332288"];

const SIDE = 64; // cells of a coarse grid, a multiple of 32
const WORDS = SIDE / 32; // in a column of cells
const COLUMNS_A_CELL = 4; // columns of the picture that are looked at

/**
 * A colour for each mask {ends, bbox, area}. Two that touch or overlap get different ones; if none is left, the one with the
 * least contact. All masks count, shown or not: so colours depend on the masks alone.
 */
export function coloursOf(masks, size) {
  const order = masks.map((_, at) => at).sort((one, other) => masks[other].area - masks[one].area || one - other);
  const done = [], given = [], uses = PALETTE.map(() => 0);
  for (const at of order) {
    const cells = cellsOf(masks[at], size), wide = widened(cells);
    const contact = PALETTE.map(() => 0);
    for (const { others, bbox, colour } of done) if (near(masks[at].bbox, bbox, size)) contact[colour] += common(wide, others);
    let best = 0;
    for (let colour = 1; colour < PALETTE.length; colour++)
      if (contact[colour] < contact[best] || (contact[colour] === contact[best] && uses[colour] < uses[best])) best = colour;
    uses[best]++;
    done.push({ others: cells, bbox: masks[at].bbox, colour: best });
    given[at] = PALETTE[best];
  }
  return given;
}

/** The cells that a mask has a pixel in: a bit for each, column by column, as its runs are. */
function cellsOf({ ends, bbox }, { width, height }) {
  const cells = new Uint32Array(SIDE * WORDS), step = Math.max(width / SIDE / COLUMNS_A_CELL, 1);
  for (let column = bbox[0], run = 0; column < bbox[0] + bbox[2]; column += step) {
    const x = Math.floor(column), start = x * height, end = start + height;
    const word = Math.floor(x * SIDE / width) * WORDS;
    while (ends[run] <= start) run++;
    for (let at = run; ; at++) {
      if (at & 1) {
        const last = Math.floor((Math.min(ends[at], end) - 1 - start) * SIDE / height);
        for (let row = Math.floor((Math.max(ends[at - 1], start) - start) * SIDE / height); row <= last; row++) cells[word + (row >> 5)] |= 1 << (row & 31);
      }
      if (ends[at] >= end) break;
    }
  }
  return cells;
}

/** The cells and those beside them. */
function widened(cells) {
  const tall = cells.map((word, at) => {
    const above = at % WORDS ? cells[at - 1] >>> 31 : 0, below = (at + 1) % WORDS ? cells[at + 1] << 31 : 0;
    return word | word << 1 | word >>> 1 | above | below;
  });
  return tall.map((word, at) => word | (tall[at - WORDS] ?? 0) | (tall[at + WORDS] ?? 0));
}

/** Whether two boxes are at most two cells apart. */
const near = (one, other, { width, height }) =>
  [width, height].every((side, axis) => one[axis] - 2 * side / SIDE <= other[axis] + other[axis + 2] && other[axis] - 2 * side / SIDE <= one[axis] + one[axis + 2]);

function common(cells, others) {
  let count = 0;
  for (let at = 0; at < cells.length; at++) {
    let word = cells[at] & others[at];
    if (!word) continue;
    word -= (word >>> 1) & 0x55555555; // counts the bits: of pairs, of fours, of eights, and of all
    word = (word & 0x33333333) + ((word >>> 2) & 0x33333333);
    count += Math.imul((word + (word >>> 4)) & 0x0f0f0f0f, 0x01010101) >>> 24;
  }
  return count;
}
