/** A picture that a server has embedded, for clicks. Embeds it again if the server has evicted it. */

import { ApiError, unexpectedReply } from "./errors.js";
import { maskFields, masksOf, promptFields } from "./prompts.js";
import { unlessAborted } from "./retries.js";

/**
 * @import { CallOptions, Client } from "./client.js"
 * @import { Mask } from "./masks.js"
 * @import { MaskOptions, Prompt } from "./prompts.js"
 */

/** @typedef {{image_id: string, width: number, height: number}} Embedded */

export class Picture {
  #client;
  #embed;
  /** @type {Promise<Embedded> | null} */
  #embedding = null;

  /**
   * @param {Client} client
   * @param {Embedded} embedded
   * @param {() => Promise<Embedded>} [embed] embeds it once more; left out if its bytes are not at hand
   */
  constructor(client, embedded, embed) {
    if (typeof embedded.image_id !== "string") throw unexpectedReply("The picture");
    this.#client = client;
    this.#embed = embed;
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
    const fields = { prompts: prompts.map(promptFields), ...maskFields(options) };
    return this.#client.call((signal) => this.embedded(async (image_id) => {
      const { data } = await this.#client.connection.post("decode", { image_id, ...fields }, { signal });
      return masksOf(data, prompts.length);
    }, signal), options);
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
