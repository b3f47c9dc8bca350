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

/**
 * The part [x0, y0, x1, y1] around the mask that a prompt refines and all of the prompt: where that mask was found, one of the
 * `others`, or a new one. Null: the whole.
 */
export function regionFor({ previous, points, box }, picture, others = []) {
  if (!previous?.area) return null;
  const [left, top, width, height] = previous.bbox;
  const all = [[left, top], [left + width, top + height], ...points, ...points.map(([x, y]) => [x + 1, y + 1]), ...(box ? [box, box.slice(2)] : [])];
  const [xs, ys] = [0, 1].map((axis) => all.map((point) => point[axis]));
  const shown = [Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys)];
  const best = squareAround(shown, MARGIN, picture);
  if (!best) return null;
  const least = squareAround(shown, LEAST_MARGIN, picture);
  const isKept = (region) => areaOf(region) <= MOST_WASTE * areaOf(best) && holds(region, least);
  if (isKept(previous.region ?? [0, 0, picture.width, picture.height])) return previous.region ?? null;
  return others.find(isKept) ?? best;
}

export class Parts {
  #parts = new WeakMap(); // by picture: its parts by region, the newest last
  #coming = new WeakMap(); // by picture: {region, part, abort} of the one that is being embedded

  constructor(session) {
    this.session = session;
  }

  /** The part for a prompt, if it is embedded. */
  known(picture, prompt) {
    return this.#parts.get(picture)?.get(String(this.#regionFor(prompt, picture)));
  }

  /** The part for a prompt; `whole` where that shows as much. One that is coming serves newer prompts too. Throws if the part cannot be cut out. */
  async at(picture, prompt, whole, { limits }) {
    const region = this.#regionFor(prompt, picture), key = String(region);
    if (!region || 3 * areaOf(region) > limits.max_upload_mib * 2 ** 20) return whole; // browsers lose a rejection that arrives during an upload
    const part = this.#parts.get(picture)?.get(key) ?? await this.#embedded(picture, region, whole);
    const parts = this.#parts.get(picture) ?? new Map();
    this.#parts.set(picture, parts);
    parts.delete(key);
    parts.set(key, part);
    if (parts.size > MOST_PARTS) parts.delete(parts.keys().next().value);
    return part;
  }

  #regionFor(prompt, picture) {
    const there = [...this.#parts.get(picture)?.values() ?? [], this.#coming.get(picture)];
    return regionFor(prompt, picture, there.flatMap((part) => part?.region ? [part.region] : []).reverse());
  }

  /** A part, whose progress is shown. Another one that was coming is given up. */
  #embedded(picture, region, whole) {
    const old = this.#coming.get(picture);
    if (String(old?.region) === String(region)) return old.part;
    old?.abort.abort();
    const abort = new AbortController(), coming = { region, abort, part: whole.closer(region, { margin: 1, signal: abort.signal }) };
    this.#coming.set(picture, coming);
    this.#shows(picture, 1);
    return coming.part.finally(() => {
      if (this.#coming.get(picture) === coming) this.#coming.delete(picture);
      this.#shows(picture, -1);
    });
  }

  #shows(picture, more) {
    picture.looking += more;
    this.session.redraw();
  }
}
