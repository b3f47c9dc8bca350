/** Colours for many masks of one picture, so that neighbours differ. Does not know about screens. */

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
  for (let at = 0; at < cells.length; at++)
    for (let word = cells[at] & others[at]; word; word &= word - 1) count++; // a bit is gone
  return count;
}
