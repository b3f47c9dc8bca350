/** One picture: its objects with their prompts and masks, and their history. Does not know about the network. */

import { EMPTY, isEmpty } from "./prompts.js";
import { decodeRuns } from "../client/rle.js";

export const COLOURS = ["#2f81f7", "#f2711c", "#21ba45", "#e03997", "#fbbd08", "#00b5ad", "#a333c8", "#db2828"];

const runsOf = new WeakMap();

/** A mask with its runs, which are decoded once. */
export function withRuns(mask, { width, height }) {
  if (!runsOf.has(mask)) runsOf.set(mask, decodeRuns(mask.counts, width * height));
  return { ends: runsOf.get(mask), bbox: mask.bbox };
}

/** The visible mask of an object, or null. */
export const chosenMask = (object) => object.masks?.[object.chosen] ?? null;

export class Picture {
  progress = 0; // fraction of the upload that is sent, 0..1
  problem = ""; // why the picture cannot be used
  looking = 0; // closer looks that are being embedded
  lost = false; // whether the server had lost it when last asked
  bitmap = null;
  unreadable = false; // whether the browser has failed to decode the file
  #past = [];
  #future = [];

  /** From a stored record; see `record`. Width, height and imageId come from the server: null before the upload. */
  constructor({ id, name, file, width = null, height = null, imageId = null, objects = [], selected = null, made = 0 }) {
    Object.assign(this, { id, name, file, width, height, imageId, objects, selected, made });
  }

  /** What is kept across a reload, without the logits of masks that were not chosen. */
  get record() {
    const { id, name, width, height, imageId, selected, made } = this;
    const objects = this.objects.map((object) => ({
      ...object,
      masks: object.masks?.map((mask, at) => (at === object.chosen ? mask : { ...mask, logits: null })) ?? null,
    }));
    return { id, name, width, height, imageId, objects, selected, made };
  }

  get object() {
    return this.objects.find(({ id }) => id === this.selected) ?? null;
  }

  /** Objects whose prompt the server has not answered yet. */
  get waiting() {
    return this.objects.filter(({ prompt, answered }) => !isEmpty(prompt) && prompt !== answered);
  }

  /** The prompt that the server should answer next, or null: that of the selected object, or one that was left before its answer. */
  get unanswered() {
    const { waiting } = this;
    return (waiting.find(({ id }) => id === this.selected) ?? waiting[0])?.prompt ?? null;
  }

  get undoable() {
    return this.#past.length > 0;
  }

  get redoable() {
    return this.#future.length > 0;
  }

  /** Change the selected object's prompt. If none is selected or it is done, start a new object. */
  point(change) {
    const { object } = this;
    if (object && !object.done) {
      const prompt = change(object.prompt, chosenMask(object));
      return this.change(object.id, { prompt });
    }
    const begun = this.#begin({ prompt: change(EMPTY, null) });
    return this.#commit([...this.objects, begun], begun.id);
  }

  /** Add objects {mask, colour, prompt} that are found already, in one step. They are done, so clicks do not change them. */
  take(found) {
    const taken = found.map(({ mask, ...rest }) => this.#begin({ ...rest, masks: [mask], answered: rest.prompt, done: true }));
    this.#commit([...this.objects, ...taken], taken.at(-1).id);
  }

  change(id, fields) {
    this.#commit(this.objects.map((object) => (object.id === id ? Object.freeze({ ...object, ...fields }) : object)), this.selected);
  }

  remove(id) {
    this.#commit(this.objects.filter((object) => object.id !== id), this.selected === id ? null : this.selected);
  }

  /** Mark the selected object as done. The next click starts a new one. */
  accept() {
    this.change(this.selected, { done: true });
    this.selected = null;
  }

  /** Select the object that clicks change. A done object is opened again. */
  select(id) {
    const object = this.objects.find((one) => one.id === id);
    if (object?.done) this.change(id, { done: false });
    this.selected = id;
  }

  /** Store the masks for a prompt, wherever it is in the history. */
  answer(prompt, masks) {
    this.#answered(prompt, { masks, chosen: 0 });
  }

  /** The server refuses a prompt: take it back if it was the last step, and else keep its object as it is. */
  refuse(prompt) {
    const before = this.#past.at(-1)?.objects;
    if (before && this.object?.prompt === prompt && !before.some((object) => object.prompt === prompt)) this.undo();
    else this.#answered(prompt, {});
  }

  undo() {
    this.#go(this.#past, this.#future);
  }

  redo() {
    this.#go(this.#future, this.#past);
  }

  /** It is no longer shown. */
  release() {
    this.bitmap = void this.bitmap?.close();
  }

  #answered(prompt, fields) {
    const answered = (objects) => objects.map((object) =>
      object.prompt === prompt ? Object.freeze({ ...object, ...fields, answered: prompt }) : object);
    this.objects = answered(this.objects);
    for (const moment of [...this.#past, ...this.#future]) moment.objects = answered(moment.objects);
  }

  #begin(fields) {
    const id = ++this.made;
    const begun = { id, name: `object ${id}`, colour: COLOURS[(id - 1) % COLOURS.length], masks: null, chosen: 0, answered: null };
    return Object.freeze({ ...begun, hidden: false, done: false, ...fields });
  }

  #commit(objects, selected) {
    this.#past.push({ objects: this.objects, selected: this.selected });
    this.#future = [];
    Object.assign(this, { objects, selected });
  }

  #go(from, to) {
    const moment = from.pop();
    if (!moment) return;
    to.push({ objects: this.objects, selected: this.selected });
    Object.assign(this, moment);
  }
}
