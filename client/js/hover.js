/**
 * Previews under the pointer: one prompt is on its way, and of those that wait only the newest stays. So previews follow a
 * pointer that never rests, and nothing waits in line. Does not draw.
 */

import { maskFields } from "./prompts.js";
import { Stream } from "./stream.js";

/**
 * @import { CallOptions, Client } from "./client.js"
 * @import { Mask } from "./masks.js"
 * @import { Picture } from "./pictures.js"
 * @import { MaskOptions, Prompt } from "./prompts.js"
 */

export class Hover {
  #client;
  #stream;
  #busy = false;
  /** @type {((mine: boolean) => void) | null} tells the prompt that waits whether it is its turn, or replaced */
  #waiting = null;
  #stopping = new AbortController();

  /** @param {Client} client */
  constructor(client) {
    this.#client = client;
    this.#stream = new Stream(client.connection);
  }

  /**
   * The masks of a click; null if a newer prompt took its place, or `stop` was called.
   * @param {Picture} picture
   * @param {[number, number]} point
   * @param {MaskOptions & CallOptions} [options]
   */
  click(picture, point, options) {
    return this.decode(picture, { points: [point] }, options);
  }

  /**
   * The masks of a prompt, without logits unless asked for; null if a newer prompt took its place, or `stop` was called.
   * @param {Picture} picture
   * @param {Prompt} prompt
   * @param {MaskOptions & CallOptions} [options]
   * @returns {Promise<Mask[] | null>}
   */
  async decode(picture, prompt, options = {}) {
    const fields = { ...picture.fieldsOf(prompt), ...maskFields({ logits: false, ...options }) };
    this.#waiting?.(false);
    if (this.#busy && !(await this.#turn(options.signal))) return null;
    this.#busy = true;
    const stopped = this.#stopping.signal;
    const ask = (/** @type {AbortSignal} */ until) =>
      picture.embedded((image_id) => this.#ask({ image_id, ...fields }, until), until);
    try {
      const signal = options.signal ? AbortSignal.any([options.signal, stopped]) : stopped;
      const [masks] = picture.masksOf(await this.#client.call(ask, { ...options, signal }), 1);
      return masks;
    } catch (error) {
      if (stopped.aborted) return null;
      throw error;
    } finally {
      if (this.#waiting) this.#waiting(true);
      else this.#busy = false;
    }
  }

  /** Forget what was asked for, as when the pointer leaves. */
  stop() {
    this.#waiting?.(false);
    this.#stopping.abort();
    this.#stopping = new AbortController();
  }

  /** Forget what was asked for, and close the connection. Another prompt opens it again. */
  close() {
    this.stop();
    this.#stream.close();
  }

  /**
   * Not every proxy passes WebSockets on. Behind one that doesn't, each preview is a request to /decode; from time to time the
   * connection is tried again, because a server that restarts refuses it too.
   * @param {object} body
   * @param {AbortSignal} signal
   */
  async #ask(body, signal) {
    if (!this.#stream.refused)
      try {
        return await this.#stream.ask(body, signal);
      } catch (error) {
        if (signal.aborted || !this.#stream.refused) throw error;
      }
    return (await this.#client.connection.post("decode", body, { signal })).data;
  }

  /**
   * Wait, in place of the prompt that waited. Returns whether it is this one's turn.
   * @param {AbortSignal} [signal]
   * @returns {Promise<boolean>}
   */
  #turn(signal) {
    return new Promise((resolve, reject) => {
      const leave = () => {
        signal?.removeEventListener("abort", abort);
        this.#waiting = null;
      };
      const abort = () => (leave(), reject(signal?.reason));
      if (signal?.aborted) return reject(signal.reason);
      signal?.addEventListener("abort", abort);
      this.#waiting = (mine) => (leave(), resolve(mine));
    });
  }
}
