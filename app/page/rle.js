/** Decodes COCO RLE: from the compressed string to run ends, and to pixels. Does not know about screens. */

/**
 * The end of each run, counted column by column from the top left. Runs with an odd index are the mask.
 * Format: cocodataset/cocoapi, common/maskApi.c, rleFrString. Throws RangeError if the number of pixels differs.
 */
export function decodeRuns(counts, pixels) {
  const ends = new Uint32Array(counts.length);
  let runs = 0, last = 0, one = 0, two = 0;
  for (let at = 0; at < counts.length;) {
    let length = 0, shift = 0, group;
    do {
      group = counts.charCodeAt(at++) - 48;
      length |= (group & 0x1f) << shift;
      shift += 5;
    } while (group & 0x20);
    if (group & 0x10) length |= -1 << shift;
    if (runs > 2) length += two; // stored as the difference to the run two before
    two = one;
    one = length;
    ends[runs++] = last += length;
  }
  if (last !== pixels) throw new RangeError(`The mask has ${last} pixels, but the picture has ${pixels}.`);
  return ends.subarray(0, runs);
}

/** The mask as bytes of 0 and 1, row by row. */
export function toBitmap(ends, { width, height }) {
  const bitmap = new Uint8Array(width * height);
  for (let run = 1; run < ends.length; run += 2) {
    let x = Math.floor(ends[run - 1] / height), y = ends[run - 1] % height;
    for (let left = ends[run] - ends[run - 1]; left > 0; left--) {
      bitmap[y * width + x] = 1;
      if (++y === height) { y = 0; x++; }
    }
  }
  return bitmap;
}
