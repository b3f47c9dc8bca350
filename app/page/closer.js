/**
 * Which part of a picture shows best what a prompt refines, and these parts, embedded. Loaded with the first closer look. Does not
 * know about the screen. The rule is that of model/training/zooming.py, where it was measured.
 */

import { squareAround } from "../client/closer.js";

const MARGIN = 1.6, LEAST_MARGIN = 1.15; // a new part's side over what it must show; one that shows so much is kept
const MOST_WASTE = 2.5; // a part of so many times the area of a new one is left
const MOST_PARTS = 8; // of a picture: each holds its file

const areaOf = ([x0, y0, x1, y1]) => (x1 - x0) * (y1 - y0);
const holds = (outer, inner) => outer[0] <= inner[0] && outer[1] <= inner[1] && outer[2] >= inner[2] && outer[3] >= inner[3];

/** The part [x0, y0, x1, y1] around the mask that a prompt refines and all of the prompt: where that mask was found, or a new one. Null: the whole. */
export function regionFor({ previous, points, box }, picture) {
  if (!previous?.area) return null;
  const [left, top, width, height] = previous.bbox;
  const all = [[left, top], [left + width, top + height], ...points, ...points.map(([x, y]) => [x + 1, y + 1]), ...(box ? [box, box.slice(2)] : [])];
  const [xs, ys] = [0, 1].map((axis) => all.map((point) => point[axis]));
  const shown = [Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys)];
  const best = squareAround(shown, MARGIN, picture), now = previous.region ?? [0, 0, picture.width, picture.height];
  if (!best) return null;
  const isClose = areaOf(now) <= MOST_WASTE * areaOf(best);
  return isClose && holds(now, squareAround(shown, LEAST_MARGIN, picture)) ? previous.region ?? null : best;
}

export class Parts {
  #parts = new WeakMap(); // by picture: its parts by region, the newest last

  constructor(session) {
    this.session = session;
  }

  /** The part for a prompt, if it is embedded. */
  known(picture, prompt) {
    return this.#parts.get(picture)?.get(String(regionFor(prompt, picture)));
  }

  /** The part for a prompt; `whole` where that shows as much. Throws if the part cannot be cut out. */
  async at(picture, prompt, whole, { limits, signal }) {
    const region = regionFor(prompt, picture), key = String(region);
    if (!region || 3 * areaOf(region) > limits.max_upload_mib * 2 ** 20) return whole; // browsers lose a rejection that arrives during an upload
    const part = this.known(picture, prompt) ?? await this.#embedded(picture, whole.closer(region, { margin: 1, signal }));
    const parts = this.#parts.get(picture) ?? new Map();
    this.#parts.set(picture, parts);
    parts.delete(key);
    parts.set(key, part);
    if (parts.size > MOST_PARTS) parts.delete(parts.keys().next().value);
    return part;
  }

  /** The result of a promise, whose progress is shown. */
  async #embedded(picture, part) {
    picture.looking++;
    this.session.redraw();
    try {
      return await part;
    } finally {
      picture.looking--;
      this.session.redraw();
    }
  }
}
