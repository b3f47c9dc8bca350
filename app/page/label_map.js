/**
 * Draws many masks at the screen's own resolution: first which mask is on top of each pixel, then all colours at once.
 * Does not know about the DOM.
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
      if (!label) continue;
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
