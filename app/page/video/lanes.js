/** The lanes of a timeline: a slider over the frames, and for each object where it is tracked and where its prompts are. */

import { attributes, element } from "../panels.js";

const [RULER, LANE, MARGIN, THUMB, KEY] = [22, 18, 4, 12, 18]; // CSS pixels, as in video.css
const WRONG = "#e5484d";

/** Runs of tracked frames, in which the object is there or is not. */
function runsOf(masks, frames) {
  const runs = [];
  for (let frame = 0; frame < frames; frame++) {
    const mask = masks.get(frame), before = runs.at(-1);
    if (!mask) continue;
    const there = mask.visible && mask.area > 0;
    if (before?.last === frame - 1 && before.there === there) before.last = frame;
    else runs.push({ first: frame, last: frame, there });
  }
  return runs;
}

export class Lanes {
  #video = null;
  #drawn = null; // what the buttons show

  constructor(player) {
    this.player = player;
    this.slider = attributes(element("input", { type: "range", min: 0, step: 1, oninput: () => this.#seek(+this.slider.value) }), { "aria-label": "Frame" });
    this.canvas = element("canvas", {});
    this.keys = element("div", { className: "keyframes" });
    this.head = element("div", { className: "playhead" });
    this.root = element("div", { className: "lanes" }, this.canvas, this.head, this.slider, this.keys);
    const scrub = (event) => event.buttons & 1 && this.#seek(this.#frameAt(event.clientX));
    this.canvas.onpointerdown = (event) => (this.canvas.setPointerCapture(event.pointerId), scrub(event));
    this.canvas.onpointermove = scrub;
    new ResizeObserver(() => this.#video && this.render(this.#video)).observe(this.root);
    matchMedia("(prefers-color-scheme: dark)").onchange = () => this.#video && this.render(this.#video);
  }

  render(video) {
    this.#video = video;
    Object.assign(this.slider, { max: video.frames - 1, value: this.player.wanted });
    attributes(this.slider, { "aria-valuetext": `Frame ${this.player.wanted + 1} of ${video.frames}` });
    this.width = this.root.clientWidth;
    const height = RULER + LANE * video.tracked.length + (video.tracked.length ? MARGIN : 0);
    this.canvas.style.height = this.head.style.height = `${height}px`;
    this.head.style.left = `${this.#x(this.player.wanted)}px`;
    const ratio = window.devicePixelRatio || 1;
    Object.assign(this.canvas, { width: Math.round(this.width * ratio), height: Math.round(height * ratio) });
    this.#draw(this.canvas.getContext("2d"), { ratio, height });
    this.#place();
  }

  #draw(context, { ratio, height }) {
    const { frames, tracked, errors } = this.#video, look = getComputedStyle(this.root);
    const half = Math.max((this.width - THUMB) / Math.max(frames - 1, 1), 1) / 2;
    context.scale(ratio, ratio);
    tracked.forEach(({ colour: fill, masks, hidden }, lane) => {
      const top = RULER + lane * LANE;
      context.fillStyle = look.color;
      context.globalAlpha = 0.1;
      context.fillRect(THUMB / 2, top + LANE / 2 - 1, this.width - THUMB, 2);
      context.fillStyle = fill;
      for (const { first, last, there } of runsOf(masks, frames)) {
        const left = Math.max(this.#x(first) - half, 0), right = Math.min(this.#x(last) + half, this.width);
        context.globalAlpha = there ? (hidden ? 0.25 : 0.7) : 0.5;
        context.fillRect(left, there ? top + 4 : top + LANE / 2 - 1, right - left, there ? LANE - 8 : 2); // a thin line: not visible
      }
    });
    context.globalAlpha = 1;
    context.fillStyle = WRONG;
    for (const frame of errors.keys()) context.fillRect(this.#x(frame) - 1, RULER - 5, 3, height);
  }

  /** A button for each prompt: buttons stay while the prompts do, and so does the focus. */
  #place() {
    const { tracked } = this.#video;
    const drawn = tracked.map(({ id, prompts, name, colour }) => [id, name, colour, ...prompts.keys()].join()).join(";");
    if (drawn !== this.#drawn) {
      this.#drawn = drawn;
      this.keys.replaceChildren(...tracked.flatMap((object, lane) => [...object.prompts.keys()].map((frame) => {
        const title = `${object.name}: prompts on frame ${frame + 1}`;
        const made = attributes(element("button", { title, onclick: () => this.#seek(frame) }), { "aria-label": title, "data-frame": frame });
        made.style.top = `${RULER + lane * LANE + LANE / 2}px`;
        made.style.background = object.colour;
        return made;
      })));
    }
    for (const made of this.keys.children) {
      const x = this.#x(+made.dataset.frame);
      made.style.left = `${Math.min(Math.max(x, KEY / 2), this.width - KEY / 2)}px`;
      attributes(made, { "aria-current": +made.dataset.frame === this.player.wanted });
    }
  }

  #seek(frame) {
    this.player.left = true; // a propagation is no longer watched
    this.player.seek(frame);
  }

  /** The middle of a frame, as the slider has its thumb. */
  #x(frame) {
    return THUMB / 2 + (this.width - THUMB) * frame / Math.max(this.#video.frames - 1, 1);
  }

  #frameAt(clientX) {
    const { left } = this.root.getBoundingClientRect();
    return Math.round((clientX - left - THUMB / 2) / (this.width - THUMB) * (this.#video.frames - 1));
  }
}
