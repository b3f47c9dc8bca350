/**
 * Every object of the current picture: asks the server once, and filters, names and takes what it found. What was found
 * belongs to its picture and lives as long as the window. Does not know how it is drawn.
 */

import { searchEverything } from "./everything_request.js";
import { holds } from "./label_map.js";
import { coloursOf } from "./palette.js";
import { patiently } from "./patience.js";
import { chosenMask, withRuns } from "./picture.js";
import { addPoint, EMPTY } from "./prompts.js";

const BELOW = 0.25; // how far the slider goes below the model's own threshold

/** What was found on one picture. */
class Found {
  shown = true;

  /** `least`: the threshold that the server was asked with; `threshold`: the one that is shown. */
  constructor({ width, height, masks }, { least, threshold }) {
    Object.assign(this, { width, height, least, threshold });
    this.masks = masks.map(({ rle, iou, stability, area, bbox, point }, at) => ({ label: at + 1, counts: rle.counts, iou, stability, area, bbox, point }));
    this.masks.sort((one, other) => other.area - one.area); // the smallest is on top
    const colours = coloursOf(this.masks.map((mask) => ({ ...this.runs(mask), area: mask.area })), this);
    this.masks.forEach((mask, at) => (mask.colour = colours[at]));
  }

  runs(mask) {
    return withRuns(mask, this);
  }

  /** As the server would return them for `threshold`: of two near duplicates the better stays, so the worse does not matter. */
  get visible() {
    return this.masks.filter(({ iou, area }) => iou > this.threshold && area);
  }

  /** The visible masks at a pixel, smallest first. */
  under(pixel) {
    return this.visible.filter((mask) => holds(this.runs(mask), pixel, this)).reverse();
  }
}

export class Everything {
  progress = 0; // fraction of the search that is done, 0..1
  named = null; // the mask under the pointer
  #found = new WeakMap(); // by picture
  #wanted = null; // the picture that is to be searched
  #asked = null; // {abort} of the request in progress
  #pixel = null; // under the pointer
  #stack = { smallest: null, level: 0 }; // which of the masks under the pointer is meant, above the smallest

  constructor(session, requests, notice) {
    Object.assign(this, { session, requests, notice });
    session.addEventListener("change", () => this.#follow());
  }

  get searching() {
    return this.#wanted !== null;
  }

  /** What is shown over the current picture, or null. */
  get found() {
    const found = this.#found.get(this.session.current);
    return found?.shown ? found : null;
  }

  /** Search the current picture, or stop that, or show and clear what was found. */
  toggle() {
    const { session } = this;
    if (this.searching) return this.stop();
    if (this.found) return this.clear();
    if (!session.current || session.current.problem || session.current.video) return;
    const before = this.#found.get(session.current);
    if (before) {
      before.shown = true;
      this.#announce(before);
    } else {
      this.#wanted = session.current;
      this.progress = 0;
      this.notice.say("Looking for every object.");
    }
    session.redraw();
  }

  /** Cancel the search. Returns whether there was one. */
  stop() {
    if (!this.searching) return false;
    this.#end();
    this.notice.say("The search is cancelled.");
    this.session.redraw();
    return true;
  }

  /** Leave. What was found is kept for the next time. Returns whether anything was shown. */
  clear() {
    const { found } = this;
    if (!found) return false;
    found.shown = false;
    this.hover(null);
    this.notice.say("What was found is no longer shown.");
    this.session.redraw();
    return true;
  }

  filter(threshold) {
    this.found.threshold = threshold;
    this.named = this.session.preview = null;
    this.session.redraw();
  }

  /** Name and light the smallest object at a pixel [x, y], or none. Returns whether there is one. */
  hover(pixel) {
    this.#pixel = pixel;
    return this.#name(this.#meant(pixel));
  }

  /** Name the next larger object at the same place; after the largest the smallest. */
  larger() {
    if (!this.#meant(this.#pixel)) return;
    this.#stack.level++;
    this.#name(this.#meant(this.#pixel));
    this.notice.say(this.describe(this.named));
  }

  /** Take the named object at a pixel into the picture's list, or select it there. Returns whether there is one. */
  take(pixel) {
    const mask = this.#meant(pixel);
    if (!mask) return false;
    const object = this.objectOf(mask);
    if (object) this.session.current.selected = object.id;
    else this.#take([mask], pixel);
    this.notice.say(object ? `${object.name} is in the list already.` : `Taken as ${this.objectOf(mask).name}.`);
    this.session.changed();
    return true;
  }

  /** Take all that are shown, in one step. */
  takeAll() {
    const masks = this.found.visible.filter((mask) => !this.objectOf(mask));
    if (!masks.length) return;
    this.#take(masks);
    this.notice.say(`${masks.length} objects taken.`);
    this.session.changed();
  }

  /** The object of the list that has this mask, or undefined. */
  objectOf({ counts }) {
    return this.session.current.objects.find((object) => chosenMask(object)?.counts === counts);
  }

  nameOf(mask) {
    return this.objectOf(mask)?.name ?? `Found ${mask.label}`;
  }

  describe(mask) {
    const { width, height } = this.found, share = +(100 * mask.area / (width * height)).toPrecision(2);
    return `${this.nameOf(mask)}: predicted IoU ${mask.iou.toFixed(2)}, stability ${mask.stability.toFixed(2)}, ${mask.area.toLocaleString("en")} pixels, ${share} % of the picture`;
  }

  /** The mask that a pixel means, or null: the smallest there, or a larger one that `larger` has gone to. */
  #meant(pixel) {
    const under = (pixel && this.found?.under(pixel)) || [];
    if (!under.length) return null;
    if (this.#stack.smallest !== under[0]) this.#stack = { smallest: under[0], level: 0 };
    return under[this.#stack.level % under.length];
  }

  #take(masks, pixel) {
    this.session.current.take(masks.map((mask) => {
      const { counts, iou, area, bbox, colour, point } = mask;
      const prompt = addPoint(EMPTY, [...(pixel ?? point.map(Math.floor)), 1], null);
      return { colour, prompt, mask: { counts, iou, area, bbox } };
    }));
  }

  #name(mask) {
    if (mask && this.session.preview === mask) return true;
    const changed = this.named !== mask;
    this.named = mask;
    if (mask) {
      this.requests.hover(null); // the server's preview would cover it
      this.session.preview = mask;
    } else if (changed) this.session.preview = null;
    if (mask || changed) this.session.redraw();
    return !!mask;
  }

  #announce({ visible }) {
    this.notice.say(`${visible.length} objects found. Click on one to take it.`);
  }

  #end() {
    this.#wanted = null;
    this.#asked?.abort();
    this.#asked = null;
  }

  /** Start the search once the picture is on the server; end it if another picture is shown. */
  #follow() {
    const picture = this.#wanted;
    if (!picture) return;
    if (picture !== this.session.current || picture.problem) this.#end();
    else if (picture.imageId && !this.#asked) this.#search(picture);
  }

  async #search(picture) {
    const { session, notice } = this;
    const abort = (this.#asked = new AbortController()), { signal } = abort;
    let told = 0;
    const onStep = (progress) => {
      if (signal.aborted) return;
      this.progress = progress;
      if (progress >= told + 0.25) notice.say(`${Math.round(100 * (told = progress))} % is done.`);
      session.redraw();
    };
    try {
      const { everything: { pred_iou_thresh: threshold } } = await this.requests.describe(true, signal);
      const least = +Math.max(threshold - BELOW, 0).toFixed(2);
      const body = { image_id: picture.imageId, pred_iou_thresh: least };
      const reply = await patiently(() => searchEverything(body, { signal, onStep }), { notice, signal });
      if (signal.aborted) return;
      picture.lost = false;
      const found = new Found(reply, { least, threshold });
      this.#found.set(picture, found);
      this.#wanted = null;
      this.#announce(found);
    } catch (error) {
      if (signal.aborted || error.name === "AbortError") return;
      if (error.code === "image_not_found") this.requests.uploadAgain(picture); // then searches
      else {
        this.#wanted = null;
        notice.tell(error.message);
      }
    } finally {
      if (this.#asked === abort) this.#asked = null;
    }
    session.redraw();
  }
}
