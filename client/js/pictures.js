/** A picture that a server has embedded, for clicks. Embeds it again if the server has evicted it. */

import { ApiError, unexpectedReply } from "./errors.js";
import { maskFields, masksOf, promptFields } from "./prompts.js";
import { unlessAborted } from "./retries.js";

/**
 * @import { CallOptions, Client, EmbedOptions } from "./client.js"
 * @import { Mask } from "./masks.js"
 * @import { MaskOptions, Prompt } from "./prompts.js"
 */

/** @typedef {{image_id: string, width: number, height: number}} Embedded */
/** @typedef {{file: Blob, stretch?: EmbedOptions["stretch"]}} Source of a picture whose bytes are at hand */

export class Picture {
  #client;
  #embed;
  #source;
  /** @type {Promise<Embedded> | null} */
  #embedding = null;

  /**
   * @param {Client} client
   * @param {Embedded} embedded
   * @param {() => Promise<Embedded>} [embed] embeds it once more; left out if its bytes are not at hand
   * @param {Source} [source]
   */
  constructor(client, embedded, embed, source) {
    if (typeof embedded.image_id !== "string") throw unexpectedReply("The picture");
    this.#client = client;
    this.#embed = embed;
    this.#source = source;
    this.imageId = embedded.image_id;
    /** In pixels, as browsers show the picture. */
    this.width = embedded.width;
    this.height = embedded.height;
  }

  /**
   * The masks of one click: three, because it may mean a part or the whole; best predicted IoU first.
   * @param {[number, number]} point x, y in pixels of the picture
   * @param {MaskOptions & CallOptions} [options]
   */
  click(point, options) {
    return this.decode({ points: [point] }, options);
  }

  /**
   * The masks of a prompt, best predicted IoU first.
   * @param {Prompt} prompt
   * @param {MaskOptions & CallOptions} [options]
   * @returns {Promise<Mask[]>}
   */
  async decode(prompt, options) {
    const [masks] = await this.decodeMany([prompt], options);
    return masks;
  }

  /**
   * The masks of each prompt, in one request.
   * @param {Prompt[]} prompts
   * @param {MaskOptions & CallOptions} [options]
   * @returns {Promise<Mask[][]>}
   */
  async decodeMany(prompts, options = {}) {
    const fields = { prompts: prompts.map((prompt) => this.fieldsOf(prompt)), ...maskFields(options) };
    return this.#client.call((signal) => this.embedded(async (image_id) => {
      const { data } = await this.#client.connection.post("decode", { image_id, ...fields }, { signal });
      return this.masksOf(data, prompts.length);
    }, signal), options);
  }

  /**
   * x0, y0, x1, y1 of the part that `closer` looks at; null for a whole picture.
   * @returns {[number, number, number, number] | null}
   */
  get region() {
    return null;
  }

  /**
   * Embed the part around a mask or a box x0, y0, x1, y1, to find a small object more exactly. Coordinates and masks stay those of the
   * whole picture. Clicks and boxes must be within `region`: a square, `margin` times as long as what it shows, of 64 pixels or more.
   * Above 60 % of the picture, returns the picture itself. The browser cuts it out, so it must have the file, and be able to read it.
   * @param {Mask | [number, number, number, number]} what
   * @param {{margin?: number} & CallOptions} [options] margin: 1.6 if left out
   * @returns {Promise<Picture>}
   */
  async closer(what, options) {
    return (await import("./closer.js")).lookCloser(this.#client, this, this.#source, what, options);
  }

  /**
   * A prompt as it is sent.
   * @param {Prompt} prompt
   */
  fieldsOf(prompt) {
    return promptFields(prompt);
  }

  /**
   * The masks of each prompt.
   * @param {any} answer
   * @param {number} prompts
   */
  masksOf(answer, prompts) {
    return masksOf(answer, prompts);
  }

  /**
   * The result of `task` for this picture's id. If the server no longer has the picture, it is embedded again first.
   * @template T
   * @param {(imageId: string) => Promise<T>} task
   * @param {AbortSignal} signal
   */
  async embedded(task, signal) {
    try {
      return await task(this.imageId);
    } catch (error) {
      if (!(error instanceof ApiError) || error.code !== "image_not_found" || !this.#embed) throw error;
    }
    // Several calls that find it gone share one upload, which none of them may abort.
    this.#embedding ??= this.#embed().finally(() => (this.#embedding = null));
    this.imageId = (await unlessAborted(this.#embedding, signal)).image_id;
    return task(this.imageId);
  }
}
