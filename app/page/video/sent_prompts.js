/** The prompts that a track on the server has, and what tells them from those of the video. Does not know how they are sent. */

export class Prompts {
  #sent = new Map(); // by object: prompts by frame
  #refused = new WeakSet();

  /**
   * What the server lacks first, or null: {id} to remove an object, {id, frame, prompt: null} to take prompts back,
   * {id, frame, prompt} to give the object this prompt on this frame, instead of earlier ones.
   */
  next({ tracked }) {
    for (const id of this.#sent.keys()) if (!tracked.some((object) => object.id === id)) return { id };
    for (const { id, prompts } of tracked) {
      const sent = this.#sent.get(id) ?? new Map();
      for (const [frame, prompt] of prompts)
        if (sent.get(frame) !== prompt && !this.#refused.has(prompt)) return { id, frame, prompt };
      for (const frame of sent.keys()) if (!prompts.has(frame)) return { id, frame, prompt: null };
    }
    return null;
  }

  /** A step is done. */
  sent(id, frame, prompt) {
    if (frame === undefined) return void this.#sent.delete(id);
    if (!this.#sent.has(id)) this.#sent.set(id, new Map());
    const prompts = this.#sent.get(id);
    if (prompt) prompts.set(frame, prompt);
    else prompts.delete(frame);
    if (!prompts.size) this.#sent.delete(id); // the server drops it
  }

  /** A step cannot be done, and is not tried again. */
  refuse(id, frame, prompt) {
    if (prompt) this.#refused.add(prompt);
    else this.sent(id, frame, prompt);
  }
}
