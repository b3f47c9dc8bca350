/** The frames of a video as bitmaps: loaded when they are needed, the last ones kept. Does not know which one is shown. */

const KEPT_BYTES = 256 * 2 ** 20;
const [LEAST_KEPT, MOST_KEPT] = [8, 240];
const AHEAD = 6;

export class Frames {
  #video;
  #kept = new Map(); // promises of bitmaps, by frame; the one used longest ago first

  constructor(video) {
    this.#video = video;
  }

  /** A bitmap of a frame, to be drawn at once: it is closed when others have been asked for. */
  async get(frame) {
    const found = this.#kept.get(frame) ?? this.#load(frame);
    this.#kept.delete(frame);
    this.#kept.set(frame, found);
    this.#drop();
    return found;
  }

  /** Load the frames behind one, in order: a decoder that goes on is fast. */
  async prepare(frame) {
    for (let next = frame + 1; next <= Math.min(frame + AHEAD, this.#video.frames - 1); next++)
      if (!this.#kept.has(next)) await this.get(next).catch(() => {}); // whoever needs it hears of it
  }

  close() {
    for (const frame of [...this.#kept.keys()]) this.#close(frame);
  }

  #load(frame) {
    const loading = this.#video.load(frame).then((file) => createImageBitmap(file));
    loading.catch(() => this.#kept.get(frame) === loading && this.#kept.delete(frame)); // so that it is tried again
    return loading;
  }

  #drop() {
    const { width, height } = this.#video;
    const most = Math.min(Math.max(Math.floor(KEPT_BYTES / (4 * (width ?? 1920) * (height ?? 1080))), LEAST_KEPT), MOST_KEPT);
    const [longAgo] = this.#kept.keys();
    if (this.#kept.size > most) this.#close(longAgo);
  }

  #close(frame) {
    const video = this.#video;
    this.#kept.get(frame)?.then((bitmap) => bitmap !== video.bitmap && bitmap.close(), () => {});
    this.#kept.delete(frame);
  }
}
