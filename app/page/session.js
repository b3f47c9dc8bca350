/** The open pictures and the current one. Dispatches "change" after every change and stores it. */

import { Picture } from "./picture.js";
import { Storage, values } from "./storage.js";

const OPTIONS = "sam2-options";

/** A picture or a video from a stored record. */
async function revived(record) {
  if (!record.video) return new Picture(record);
  const { Video } = await import("./video/video.js");
  return new Video(record);
}

export class Session extends EventTarget {
  pictures = [];
  current = null;
  preview = null; // the mask under the pointer
  last = null; // the newest request: {curl, roundTripMs, serverMs, stages}
  options = { label: 1, refine: true, closer: false, hover: true, ...JSON.parse(values.get(OPTIONS) || "{}") };
  #storage = null;
  #full = () => {}; // says once that the browser stores no more
  #storing = Promise.resolve(); // one file after the other is read
  #unstored = 0;
  #elsewhere = new Set(); // ids of what another window has changed since this one was used: written here, it would be lost
  #catching = new Set(); // those of them that are being read

  /** Load what is stored. If the browser stores nothing, say so once; all else works. */
  async open(notice) {
    addEventListener("beforeunload", (event) => this.#unstored && event.preventDefault());
    this.#full = () => {
      this.#full = () => {};
      notice.tell("This browser stores no more for this page. What you do from now on is lost when you close the window.");
    };
    try {
      this.#storage = await Storage.open();
      this.#storage.onwritten = (id) => this.#elsewhere.add(id);
      for (const name of ["focus", "visibilitychange", "pointerover", "focusin"]) addEventListener(name, () => this.#catchUp());
      this.pictures = await Promise.all((await this.#storage.load()).map(revived));
    } catch {
      notice.tell("This browser stores nothing for this page. Your work is lost when you close the window.");
    }
    this.show(this.pictures.find(({ id }) => id === values.get("sam2-current")) ?? this.pictures[0] ?? null);
  }

  /** Add picture files. Returns how many of the files were pictures. */
  add(files) {
    const found = [...files].filter((file) => file.type.startsWith("image/") || /\.(heic|avif|tiff?|bmp)$/i.test(file.name));
    found.forEach((file, at) => {
      const id = `${Date.now()}-${String(at).padStart(4, "0")}`; // sorts in this order
      this.keep(new Picture({ id, name: file.name || "pasted.png", file }));
    });
    if (found.length) this.show(this.pictures.at(-found.length));
    return found.length;
  }

  /** Add a picture or a video, without showing it. */
  keep(picture) {
    this.pictures.push(picture);
    this.#storing = this.#ended(this.#storing.then(() => this.#store(picture)));
  }

  /** Until all is stored, the browser asks before it leaves. */
  async #ended(writing) {
    this.#unstored++;
    await writing?.catch(() => this.#full());
    this.#unstored--;
  }

  /** Store a new picture. Its content is copied first: the browser may keep no more than the file's place, and there it may change. */
  async #store(picture) {
    try {
      if (!picture.video) picture.file = new File([await picture.file.arrayBuffer()], picture.file.name, { type: picture.file.type });
    } catch {
      picture.problem ||= "This file cannot be read any more. Add it again.";
      this.redraw();
    }
    await this.#storage?.add(picture.file, () => this.pictures.includes(picture) && picture.record);
  }

  remove(picture) {
    picture.close?.();
    const at = this.pictures.indexOf(picture);
    this.pictures.splice(at, 1);
    this.#catching.delete(picture.id);
    this.#storage?.remove(picture.id).catch(() => {}); // it comes back with a reload
    this.show(picture === this.current ? this.pictures[at] ?? this.pictures.at(-1) ?? null : this.current);
  }

  show(picture) {
    this.current = picture;
    values.set("sam2-current", picture?.id ?? "");
    this.changed(null);
  }

  /** Show the picture `step` places further. */
  turn(step) {
    const picture = this.pictures[this.pictures.indexOf(this.current) + step];
    if (picture) this.show(picture);
  }

  set(option, value) {
    this.options[option] = value;
    values.set(OPTIONS, JSON.stringify(this.options));
    this.changed(null);
  }

  /** Announce and store a change of the current picture, or of `picture`; null: of none. Unless `told`, other windows ask for it themselves. */
  changed(picture = this.current, told = true) {
    this.preview = null;
    if (picture && this.pictures.includes(picture) && !this.#elsewhere.has(picture.id) && !this.#catching.has(picture.id)) this.#ended(this.#storage?.save(picture.record, told));
    this.redraw();
  }

  /** Announce a change that is not stored: a preview, progress, a figure. */
  redraw() {
    this.dispatchEvent(new Event("change"));
  }

  /** Take over what was done in another window, now that this one is used again. A video that is being tracked here stays. */
  async #catchUp() {
    if (document.hidden || this.#catching.size || !this.#elsewhere.size) return;
    [this.#catching, this.#elsewhere] = [this.#elsewhere, new Set()];
    for (const id of this.#catching) {
      try {
        const record = await this.#storage.read(id), now = record ? [await revived(record)] : [];
        if (this.#catching.has(id)) this.#replace(id, now); // or it was removed
      } catch {
        this.#elsewhere.add(id); // tried again at the next use; until then nothing is written over it
      }
      this.#catching.delete(id); // what is done from here on is stored
    }
  }

  /** At once, so that no thumbnail means what has left. */
  #replace(id, now) {
    const at = this.pictures.findIndex((picture) => picture.id === id), before = this.pictures[at];
    if (before?.working) return;
    this.pictures.splice(at < 0 ? this.pictures.length : at, at < 0 ? 0 : 1, ...now);
    before?.close?.();
    before?.release();
    if (before && before === this.current) this.current = now[0] ?? this.pictures[0] ?? null;
    this.redraw();
  }
}
