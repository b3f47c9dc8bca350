/** Moves and encodes COCO RLE, for masks of a part of a picture. Loaded with the first closer look. */

/** @typedef {import("./rle.js").Size} Size */

/**
 * The runs of a mask that is moved by dx, dy into another picture, and cut at its edges.
 * @param {Uint32Array} ends of runs, as `decodeRuns` gives them
 * @param {number} height of the picture that they are of
 * @param {[number, number]} by dx, dy
 * @param {Size} to the other picture
 */
export function movedRuns(ends, height, [dx, dy], to) {
  /** @type {number[]} */
  const moved = [];
  for (let run = 1; run < ends.length; run += 2)
    for (let at = ends[run - 1]; at < ends[run];) {
      const column = Math.floor(at / height), x = column + dx, next = Math.min((column + 1) * height, ends[run]);
      const top = Math.max(at - column * height + dy, 0), bottom = Math.min(next - column * height + dy, to.height);
      at = next;
      if (top >= bottom || x < 0 || x >= to.width) continue;
      const start = x * to.height + top, end = x * to.height + bottom;
      if (moved.at(-1) === start) moved[moved.length - 1] = end; // it goes on in the next column
      else moved.push(start, end);
    }
  const pixels = to.width * to.height;
  if (moved.at(-1) !== pixels) moved.push(pixels);
  return Uint32Array.from(moved);
}

/**
 * The compressed string of a mask: the counterpart of `decodeRuns`. Format: cocodataset/cocoapi, common/maskApi.c, rleToString.
 * @param {Uint32Array} ends
 */
export function encodeRuns(ends) {
  const lengths = Array.from(ends, (end, run) => end - (run ? ends[run - 1] : 0));
  let counts = "";
  lengths.forEach((length, run) => {
    let rest = run > 2 ? length - lengths[run - 2] : length; // stored as the difference to the run two before
    for (let more = true; more;) {
      const group = ((rest % 32) + 32) % 32, sign = group & 0x10 ? -1 : 0;
      rest = (rest - group) / 32;
      more = rest !== sign;
      counts += String.fromCharCode(48 + (more ? group | 0x20 : group));
    }
  });
  return counts;
}
