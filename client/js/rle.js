/** Decodes COCO RLE: from the compressed string to run ends, and to pixels. Does not know about screens. */

/** @typedef {{width: number, height: number}} Size in pixels */

/**
 * The end of each run, counted column by column from the top left. Runs with an odd index are the mask.
 * Format: cocodataset/cocoapi, common/maskApi.c, rleFrString. Throws RangeError if the number of pixels differs.
 * @param {string} counts
 * @param {number} pixels width x height of the picture
 */
export function decodeRuns(counts, pixels) {
  const ends = new Uint32Array(counts.length);
  let runs = 0, last = 0, one = 0, two = 0;
  for (let at = 0; at < counts.length;) {
    let length = 0, unit = 1, group;
    do {
      group = counts.charCodeAt(at++) - 48;
      length += (group & 0x1f) * unit; // by shifts, what has more than 32 bits would be cut off
      unit *= 32;
    } while (group & 0x20);
    if (group & 0x10) length -= unit;
    if (runs > 2) length += two; // stored as the difference to the run two before
    two = one;
    one = length;
    ends[runs++] = last += length;
  }
  if (last !== pixels) throw new RangeError(`The mask has ${last} pixels, but the picture has ${pixels}.`);
  return ends.subarray(0, runs);
}

/**
 * The mask as bytes of 0 and 1, row by row.
 * @param {Uint32Array} ends
 * @param {Size} size
 */
export const toBitmap = (ends, size) => fill(new Uint8Array(size.width * size.height), ends, size, 1);

/**
 * Set the pixels of a mask to a value, and leave the others.
 * @template {Uint8Array | Uint32Array} Pixels
 * @param {Pixels} pixels row by row
 * @param {Uint32Array} ends
 * @param {Size} size
 * @param {number} value
 */
export function fill(pixels, ends, { width, height }, value) {
  for (let run = 1; run < ends.length; run += 2) {
    let x = Math.floor(ends[run - 1] / height), y = ends[run - 1] % height;
    for (let left = ends[run] - ends[run - 1]; left > 0; left--) {
      pixels[y * width + x] = value;
      if (++y === height) { y = 0; x++; }
    }
  }
  return pixels;
}
