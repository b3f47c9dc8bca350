/** Draws the picture, the masks and the marks, on three canvases. Does not know about input. */

import { chosenMask, withRuns } from "./picture.js";
import { paint, pixel } from "../client/raster.js";
import { View } from "./view.js";

const NOT = "#e5484d";
const MANY = 8; // masks whose pixels move along with the picture until it rests: a hundred take half a second
const REST_MS = 150;

export class Canvas {
  view = new View();
  draft = null; // the box that is being drawn: two points of the picture
  drawUnder = () => {}; // draws a layer between the picture and the masks
  cursor = null; // the keyboard's cross: a point of the picture
  #drawn = null; // the picture on the screen
  #still = null; // masks that are kept: {place, layers, pixels, view, shot}
  #resting = 0;
  #waiting = false;

  constructor(stage, session) {
    Object.assign(this, { stage, session });
    [this.picture, this.masks, this.marks] = ["picture", "masks", "marks"].map((id) => document.getElementById(id).getContext("2d"));
    new ResizeObserver(() => this.#resize()).observe(stage);
    session.addEventListener("change", () => this.draw());
    this.#resize();
  }

  get screen() {
    return this.marks.canvas;
  }

  /** The position of a pointer event, in device pixels of the stage. */
  at(event) {
    const { left, top } = this.stage.getBoundingClientRect();
    return [(event.clientX - left) * this.ratio, (event.clientY - top) * this.ratio];
  }

  zoom(factor, at = [this.screen.width / 2, this.screen.height / 2]) {
    if (this.#drawn) this.view.zoom(factor, at, this.#drawn, this.screen);
    this.draw();
  }

  pan(dx, dy) {
    if (this.#drawn) this.view.pan(dx, dy, this.#drawn, this.screen);
    this.draw();
  }

  fit() {
    if (this.#drawn) this.view.fit(this.#drawn, this.screen);
    this.draw();
  }

  /** Draw everything before the browser's next frame. */
  draw() {
    if (this.#waiting) return;
    this.#waiting = true;
    requestAnimationFrame(() => {
      this.#waiting = false;
      this.#draw();
    });
  }

  #resize() {
    this.ratio = window.devicePixelRatio || 1;
    const { width, height } = this.stage.getBoundingClientRect();
    for (const { canvas } of [this.picture, this.masks, this.marks])
      Object.assign(canvas, { width: Math.max(Math.round(width * this.ratio), 1), height: Math.max(Math.round(height * this.ratio), 1) });
    this.image = this.masks.createImageData(this.screen.width, this.screen.height);
    this.#still = { place: "", layers: [], view: {}, pixels: new Uint32Array(this.image.data.length / 4) };
    if (this.#drawn) this.view.fitted ? this.view.fit(this.#drawn, this.screen) : this.view.pan(0, 0, this.#drawn, this.screen);
    this.#draw();
  }

  #draw(isAtRest) {
    const { width, height } = this.screen;
    for (const context of [this.picture, this.masks, this.marks]) context.clearRect(0, 0, width, height);
    const picture = this.session.current;
    if (!picture?.bitmap) {
      this.#drawn = null;
      return this.drawUnder();
    }
    if (this.#drawn?.picture !== picture) {
      this.#drawn = { picture, width: picture.bitmap.width, height: picture.bitmap.height };
      Object.assign(this, { cursor: null, draft: null });
      this.view.fit(this.#drawn, this.screen);
    }
    this.#drawPicture(picture);
    this.drawUnder();
    this.#drawMasks(picture, isAtRest);
    this.#drawMarks(picture);
    document.getElementById("zoom").textContent = `${Math.round(100 * this.view.scale / this.ratio)} %`;
  }

  #drawPicture({ bitmap }) {
    const { x, y, scale } = this.view;
    this.picture.imageSmoothingEnabled = scale < 4;
    this.picture.fillStyle = "#fff"; // transparent pixels are blended with white, as the model sees them
    this.picture.fillRect(x, y, bitmap.width * scale, bitmap.height * scale);
    this.picture.drawImage(bitmap, x, y, bitmap.width * scale, bitmap.height * scale);
  }

  /** Masks that are not selected are kept as pixels: to draw a hundred takes half a second. */
  #drawMasks(picture, isAtRest) {
    const { view, ratio, session: { preview }, screen: { width, height } } = this, still = this.#still, last = picture.object;
    const lay = (pixels, { mask, colour }, opacity) =>
      paint(withRuns(mask, picture), picture, view, { pixels, width, height }, { fill: pixel(colour, opacity), edge: pixel(colour, 1), thickness: Math.ceil(1.5 * ratio) });
    const layers = (objects) => objects.map((object) => ({ ...object, mask: chosenMask(object) })).filter(({ mask, hidden }) => mask && !hidden);
    const others = layers(picture.objects.filter((object) => object !== last)), place = JSON.stringify([picture.id, ratio]);
    const { x, y, scale } = still.view, isMoved = x !== view.x || y !== view.y || scale !== view.scale;
    if (still.place !== place || still.layers.some(({ mask, colour }, at) => mask !== others[at]?.mask || colour !== others[at].colour))
      Object.assign(still, { place, layers: [] });
    clearTimeout(this.#resting);
    if (isMoved && !isAtRest && still.layers.length > MANY) {
      const larger = view.scale / scale;
      still.shot ??= shotOf(this.image);
      this.masks.drawImage(still.shot, view.x - x * larger, view.y - y * larger, width * larger, height * larger);
      this.#resting = setTimeout(() => this.#draw(true), REST_MS);
      return;
    }
    if (isMoved) still.layers = [];
    if (!still.layers.length) still.pixels.fill(0);
    Object.assign(still, { view: { ...view }, shot: null });
    for (const other of others.slice(still.layers.length)) lay(still.pixels, other, 0.35);
    still.layers = others;
    const pixels = new Uint32Array(this.image.data.buffer);
    pixels.set(still.pixels);
    for (const object of layers(last ? [last] : [])) lay(pixels, object, 0.5);
    if (preview) lay(pixels, { mask: preview, colour: "#ffffff" }, 0.25);
    this.masks.putImageData(this.image, 0, 0);
  }

  #drawMarks({ object }) {
    const box = this.draft ?? (object?.prompt.box && [object.prompt.box.slice(0, 2), object.prompt.box.slice(2)]);
    if (box) this.#drawBox(box, [[4, "#000a"], [2, "#fff"], [2, object?.colour ?? "#fff", [6, 6]]]);
    const part = object && chosenMask(object)?.region;
    if (part) this.#drawBox([part.slice(0, 2), part.slice(2)], [[2, "#0008"], [1, "#fff", [3, 5]]]);
    for (const [x, y, label] of object?.prompt.points ?? []) this.#drawPoint(this.view.toScreen([x + 0.5, y + 0.5]), label, object.colour);
    if (this.cursor) this.#drawCursor(this.view.toScreen(this.cursor));
  }

  #drawBox(corners, pens) {
    const [[ax, ay], [bx, by]] = corners.map((point) => this.view.toScreen(point));
    for (const pen of pens) {
      this.#pen(...pen);
      this.marks.strokeRect(Math.min(ax, bx), Math.min(ay, by), Math.abs(bx - ax), Math.abs(by - ay));
    }
  }

  /** A disc with a plus or a minus, for users who cannot tell the colours apart. */
  #drawPoint([x, y], label, colour) {
    const { marks, ratio } = this;
    const arm = 3.5 * ratio;
    marks.beginPath();
    marks.arc(x, y, 7.5 * ratio, 0, 2 * Math.PI);
    marks.fillStyle = label ? colour : NOT;
    marks.fill();
    this.#pen(3.5, "#0008");
    marks.stroke();
    this.#pen(2, "#fff");
    marks.stroke();
    marks.beginPath();
    marks.moveTo(x - arm, y);
    marks.lineTo(x + arm, y);
    if (label) {
      marks.moveTo(x, y - arm);
      marks.lineTo(x, y + arm);
    }
    marks.stroke();
  }

  #drawCursor([x, y]) {
    const arm = 16 * this.ratio, gap = 4 * this.ratio;
    for (const [width, style] of [[4, "#000a"], [2, "#fff"]]) {
      this.#pen(width, style);
      this.marks.beginPath();
      for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
        this.marks.moveTo(x + dx * gap, y + dy * gap);
        this.marks.lineTo(x + dx * arm, y + dy * arm);
      }
      this.marks.stroke();
    }
  }

  #pen(width, style, dash = []) {
    this.marks.lineWidth = width * this.ratio;
    this.marks.strokeStyle = style;
    this.marks.setLineDash(dash.map((length) => length * this.ratio));
  }
}

function shotOf(image) {
  const shot = new OffscreenCanvas(image.width, image.height);
  shot.getContext("2d").putImageData(image, 0, 0);
  return shot;
}
