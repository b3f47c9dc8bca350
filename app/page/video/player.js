/** Which frame is shown: seeks, steps and plays. A frame counts as shown once its picture is there. */

import { Frames } from "./frames.js";

export class Player extends EventTarget {
  wanted = 0; // the frame that is sought
  playing = false;
  #video = null;
  #frames = null;
  #seeking = null; // the frames of which one is being loaded

  /** `onError(error, frame)` hears why a frame cannot be shown. */
  constructor(session, onError) {
    super();
    Object.assign(this, { session, onError });
  }

  /** Show a video where it was left, or none (null). */
  open(video) {
    if (video === this.#video) return;
    this.pause();
    this.#frames?.close();
    this.#video?.release();
    this.#video = video;
    this.#frames = video && new Frames(video);
    this.wanted = video?.frame ?? 0;
  }

  /** Show what should be shown and is not, after an undo or an upload. */
  follow() {
    const video = this.#video;
    if (!video?.load || this.#seeking === this.#frames || this.playing) return;
    if (!video.bitmap || video.shown !== video.frame) this.seek(video.frame);
  }

  seek(frame) {
    this.pause();
    this.watch(frame);
  }

  step(by) {
    this.seek(this.wanted + by);
  }

  /** Seek without a pause: where a propagation is. */
  watch(frame) {
    if (!this.#video?.frames) return;
    this.wanted = Math.min(Math.max(Math.round(frame), 0), this.#video.frames - 1);
    this.#moved();
    this.#load();
  }

  toggle() {
    if (this.playing) this.pause();
    else this.#play();
  }

  pause() {
    if (!this.playing) return;
    this.playing = false;
    this.#moved();
  }

  /** One at a time: of the frames that are wanted meanwhile, only the last is loaded. */
  async #load() {
    const frames = this.#frames;
    if (this.#seeking === frames || !this.#video?.load) return;
    this.#seeking = frames;
    for (let frame = null; frames === this.#frames && frame !== this.wanted;) {
      frame = this.wanted;
      await this.#show(frame);
    }
    if (this.#seeking === frames) this.#seeking = null;
    if (frames === this.#frames) frames.prepare(this.wanted);
  }

  /** What comes after the video was left is closed, also if it has been come back to. */
  async #show(frame) {
    const video = this.#video, frames = this.#frames;
    let bitmap;
    try {
      bitmap = await frames.get(frame);
    } catch (error) {
      if (frames !== this.#frames) return;
      bitmap = await createImageBitmap(new ImageData(video.width ?? 16, video.height ?? 9)); // white: not another frame's picture
      this.onError(error, frame);
    }
    if (frames === this.#frames) this.#display(frame, bitmap);
  }

  #display(frame, bitmap) {
    const video = this.#video;
    Object.assign(video, { frame, bitmap, shown: frame });
    video.hasPoster(bitmap);
    this.session.redraw();
    this.#moved();
  }

  /** Every frame at its time; where frames come late, all that follow are later. */
  async #play() {
    const video = this.#video, frames = this.#frames;
    if (!video?.bitmap || video.frames < 2) return;
    this.playing = true;
    if (video.frame === video.frames - 1) await this.#show(0);
    this.#moved();
    let start = performance.now() - 1000 * video.times[video.frame];
    while (this.playing && frames === this.#frames && video.frame < video.frames - 1) {
      const next = video.frame + 1;
      frames.prepare(video.frame);
      try {
        await frames.get(next);
      } catch {} // shown as an error below
      const early = start + 1000 * video.times[next] - performance.now();
      if (early > 0) await new Promise((resolve) => setTimeout(resolve, early));
      else start -= early;
      if (!this.playing || frames !== this.#frames) return;
      this.wanted = next;
      await this.#show(next);
    }
    this.pause();
  }

  #moved() {
    this.dispatchEvent(new Event("move"));
  }
}
