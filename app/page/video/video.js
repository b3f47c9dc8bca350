/**
 * One video, or pictures as frames: its objects with their prompts and masks on each frame, and their history. On the frame that
 * is shown it looks like a picture (picture.js) to all that draws and lists objects. Does not know about the network.
 */

import { COLOURS } from "../picture.js";
import { EMPTY, isEmpty } from "../prompts.js";

const FRAMES_A_SECOND = 10; // of pictures, which have no times of their own

export class Video {
  video = true; // what a picture is not
  hint = "Click: object · right click: background · drag: box · arrow keys: frames · Space: play · T: track · without a mouse: Enter, then arrow keys";
  progress = 0; // fraction of the upload that is sent, 0..1
  state = "Uploading"; // what the page waits for before the first click
  problem = ""; // why the video cannot be used
  poster = new Promise((resolve) => (this.hasPoster = resolve)); // a bitmap of its first frame
  bitmap = null; // of the frame that is shown
  shown = null; // which frame `bitmap` is of
  load = null; // the picture of a frame, as a Blob, once it can be had
  ready = false; // whether the server has all that it needs
  errors = new Map(); // why a frame cannot be read, by frame
  working = null; // of a propagation: {direction, done, of}
  #past = [];
  #future = [];
  #seen = {}; // the objects as they are on one frame
  #refused = new WeakSet(); // prompts

  /**
   * From a stored record; see `record`. `files`: one video, or pictures in order. Sizes and ids come from the server.
   * Objects are {id, name, colour, hidden, done, prompts: Map(frame, prompt), masks: Map(frame, mask)}.
   */
  constructor({ id, name, file, sequence = false, videoId = null, imageIds = [], width = null, height = null, fps = null, times = [], frame = 0, objects = [], selected = null, made = 0 }) {
    Object.assign(this, { id, name, file, sequence, videoId, imageIds, width, height, fps, times, frame, tracked: objects, selected, made });
    if (!sequence) return;
    this.fps = FRAMES_A_SECOND;
    this.times = file.map((_, at) => at / FRAMES_A_SECOND);
    this.load = async (frame) => file[frame];
  }

  /** What is kept across a reload. */
  get record() {
    const { id, name, sequence, videoId, imageIds, width, height, fps, times, frame, tracked: objects, selected, made } = this;
    return { id, name, video: true, sequence, videoId, imageIds, width, height, fps, times, frame, objects, selected, made };
  }

  get frames() {
    return this.times.length;
  }

  get imageId() {
    return this.ready ? this.id : null;
  }

  /** Objects as a picture has them: with the prompt and the mask of the frame that is shown. */
  get objects() {
    const seen = this.#seen;
    if (seen.of !== this.tracked || seen.frame !== this.frame || seen.stale) {
      const objects = this.tracked.map(({ prompts, masks, ...object }) => {
        const mask = masks.get(this.frame), prompt = prompts.get(this.frame) ?? EMPTY;
        return { ...object, prompt, masks: mask ? [mask] : null, chosen: 0, answered: this.#refused.has(prompt) && prompt };
      });
      this.#seen = { of: this.tracked, frame: this.frame, objects };
    }
    return this.#seen.objects;
  }

  get object() {
    return this.objects.find(({ id }) => id === this.selected) ?? null;
  }

  /** Masks are not asked for one by one, as those of a picture are; see tracker.js. */
  get unanswered() {
    return null;
  }

  get undoable() {
    return this.#past.length > 0;
  }

  get redoable() {
    return this.#future.length > 0;
  }

  /** Frames with a prompt, in order. */
  get keyframes() {
    return [...new Set(this.tracked.flatMap(({ prompts }) => [...prompts.keys()]))].sort((one, other) => one - other);
  }

  /** Change the selected object's prompt on this frame. If none is selected or it is done, start a new object. */
  point(change) {
    const object = this.tracked.find(({ id }) => id === this.selected && !this.object.done);
    if (object) return this.#prompt(object, change(object.prompts.get(this.frame) ?? EMPTY, null));
    const id = ++this.made;
    const begun = { id, name: `object ${id}`, colour: COLOURS[(id - 1) % COLOURS.length], hidden: false, done: false };
    this.#commit([...this.tracked, { ...begun, prompts: new Map([[this.frame, change(EMPTY, null)]]), masks: new Map() }], id);
  }

  /** Take the selected object's prompts on this frame back. */
  clearFrame() {
    const object = this.tracked.find(({ id }) => id === this.selected);
    if (object?.prompts.has(this.frame)) this.#prompt(object, EMPTY);
  }

  change(id, fields) {
    this.#commit(this.tracked.map((object) => (object.id === id ? { ...object, ...fields } : object)), this.selected);
  }

  remove(id) {
    this.#commit(this.tracked.filter((object) => object.id !== id), this.selected === id ? null : this.selected);
  }

  /** Mark the selected object as done. The next click starts a new one. */
  accept() {
    this.change(this.selected, { done: true });
    this.selected = null;
  }

  /** Select the object that clicks change. A done object is opened again. */
  select(id) {
    if (this.tracked.find((one) => one.id === id)?.done) this.change(id, { done: false });
    this.selected = id;
  }

  /** Store the server's mask for a prompt, wherever the prompt is in the history. */
  answer(id, { frame, prompt, mask }) {
    const moments = [this.tracked, ...[...this.#past, ...this.#future].map(({ objects }) => objects)];
    const prompted = moments.flat().filter((object) => object.id === id && object.prompts.get(frame) === prompt);
    for (const { masks } of new Set(prompted)) masks.set(frame, mask);
    this.#seen.stale = true;
  }

  /** The server refuses a prompt: take it back if it was the last step. What was done since stays. */
  refuse(id, { frame, prompt }) {
    const has = (objects) => objects?.some((object) => object.id === id && object.prompts.get(frame) === prompt);
    this.#refused.add(prompt);
    this.#seen.stale = true;
    if (has(this.tracked) && has(this.#past.at(-1)?.objects) === false) this.undo();
  }

  /** Store the masks of a frame that was tracked: [id, mask] pairs. */
  track(frame, found) {
    for (const [id, mask] of found) this.tracked.find((object) => object.id === id)?.masks.set(frame, mask);
    this.errors.delete(frame);
    this.#seen.stale = true;
  }

  undo() {
    this.#go(this.#past, this.#future);
  }

  redo() {
    this.#go(this.#future, this.#past);
  }

  /** A picture's bitmap is closed when another is shown. This one belongs to frames.js. */
  release() {
    this.bitmap = null;
  }

  #prompt(object, prompt) {
    const prompts = new Map(object.prompts), masks = new Map(object.masks);
    if (isEmpty(prompt)) {
      prompts.delete(this.frame);
      if (!prompts.size) return this.remove(object.id); // as the server does
      masks.delete(this.frame);
    } else prompts.set(this.frame, prompt);
    this.change(object.id, { prompts, masks });
  }

  /** A moment keeps its own map of masks, which later propagations do not change: so undo shows what was there. */
  #commit(objects, selected) {
    this.#past.push({ objects: this.tracked, selected: this.selected, frame: this.frame });
    this.#future = [];
    const before = new Set(this.tracked.map(({ masks }) => masks));
    this.tracked = objects.map((object) => (before.has(object.masks) ? { ...object, masks: new Map(object.masks) } : object));
    this.selected = selected;
  }

  /** Frames are part of a moment, so that what is undone is seen. */
  #go(from, to) {
    const moment = from.pop();
    if (!moment) return;
    to.push({ objects: this.tracked, selected: this.selected, frame: moment.frame });
    Object.assign(this, { tracked: moment.objects, selected: moment.selected, frame: moment.frame });
  }
}
