/** A server, as a web tool uses it: pictures and videos in, with retries and a deadline for each call. Does not draw. */

import { Connection, contentType } from "./connection.js";
import { ApiError } from "./errors.js";
import { Hover } from "./hover.js";
import { Picture } from "./pictures.js";
import { retrying } from "./retries.js";

/**
 * @import { TrackOptions } from "./tracks.js"
 * @import { Video, VideoOptions } from "./videos.js"
 */

/**
 * @typedef {object} CallOptions of every call
 * @property {AbortSignal} [signal] ends it: the call rejects with the signal's reason
 * @property {number} [deadlineS] seconds for all tries together
 * @property {(error: ApiError, seconds: number) => void} [onRetry] called before each wait
 */

/**
 * @typedef {object} EmbedOptions
 * @property {string} [imageId] your own name for the picture; without it, the server's name is the SHA-256 of its bytes
 * @property {boolean} [replace] give an existing name to this picture
 * @property {"range" | "percentile" | "none"} [stretch] how more than 8 bits become 8
 * @property {(share: number) => void} [onProgress] gets the fraction sent, 0..1
 */

export class Client {
  /**
   * @param {string | URL} url the server's
   * @param {object} [options]
   * @param {import("./connection.js").Key} [options.key] an API key, or a function that returns the current one
   * @param {number} [options.retries] how often a call is tried again
   * @param {number} [options.deadlineS] seconds for a call with all its tries
   */
  constructor(url, { key = "", retries = 4, deadlineS = 60 } = {}) {
    this.connection = new Connection(url, key);
    this.retries = retries;
    this.deadlineS = deadlineS;
  }

  /**
   * Upload a picture. It is kept, to be embedded again if the server has evicted it.
   * @param {Blob | string | URL} source a file, or an address that this page may fetch
   * @param {EmbedOptions & CallOptions} [options]
   */
  async embed(source, options = {}) {
    let file = source instanceof Blob ? source : null;
    if (!file && typeof source !== "string" && !(source instanceof URL)) throw new TypeError("A picture is a File, a Blob or an address.");
    const { imageId, replace, stretch, onProgress } = options;
    const path = withQuery("embed", { image_id: imageId, replace, stretch });
    /** @param {CallOptions} call */
    const send = (call) => this.call(async (signal) => {
      file ??= await fetched(/** @type {string | URL} */ (source), signal);
      return this.send(path, file, { onProgress, signal });
    }, call);
    return new Picture(this, await send(options), () => send({}), { file: /** @type {any} */ (file), stretch });
  }

  /**
   * A picture that the server already has.
   * @param {string} imageId
   * @param {CallOptions} [options]
   */
  async open(imageId, options) {
    return new Picture(this, await this.get(`images/${encodeURIComponent(imageId)}`, options));
  }

  /**
   * Name, device, precision and limits, as in GET /model.
   * @param {CallOptions} [options]
   * @returns {Promise<any>}
   */
  model(options) {
    return this.get("model", options);
  }

  // Loaded when the first video comes: most pages show pictures.

  /**
   * Upload a video, or an animated GIF. Its frames are decoded when they are needed.
   * @param {Blob} file
   * @param {VideoOptions & CallOptions} [options]
   */
  async video(file, options) {
    return (await import("./videos.js")).uploadVideo(this, file, options);
  }

  /**
   * A video that the server already has.
   * @param {string} videoId
   * @param {CallOptions} [options]
   */
  async openVideo(videoId, options) {
    return (await import("./videos.js")).openVideo(this, videoId, options);
  }

  /**
   * Begin a track: objects will be followed through frames. Costs nothing until the first prompt.
   * @param {Video | (Picture | string)[]} frames a video, or pictures or their ids, all of one size
   * @param {TrackOptions & CallOptions} [options]
   */
  async track(frames, options) {
    return (await import("./tracks.js")).beginTrack(this, frames, options);
  }

  /**
   * A track that was begun before.
   * @param {string} trackId
   * @param {CallOptions} [options]
   */
  async openTrack(trackId, options) {
    return (await import("./tracks.js")).openTrack(this, trackId, options);
  }

  /** Previews under the pointer, over a connection of their own. */
  hover() {
    return new Hover(this);
  }

  /**
   * Run `task` with the client's retries and deadline.
   * @template T
   * @param {(signal: AbortSignal) => Promise<T>} task
   * @param {CallOptions} [options]
   * @param {{once?: boolean}} [manner] as in retries.js
   */
  async call(task, { signal, deadlineS = this.deadlineS, onRetry } = {}, { once = false } = {}) {
    return retrying(task, { retries: this.retries, deadlineS, signal, onRetry, once });
  }

  /**
   * The body of a reply to GET.
   * @param {string} path
   * @param {CallOptions} [options]
   * @returns {Promise<any>}
   */
  get(path, options) {
    return this.call(async (signal) => (await this.connection.request(path, { signal })).data, options);
  }

  /**
   * POST a file. Returns the body of the reply.
   * @param {string} path
   * @param {Blob} file
   * @param {{onProgress?: (share: number) => void, signal: AbortSignal}} options
   */
  async send(path, file, { onProgress, signal }) {
    if (onProgress && globalThis.XMLHttpRequest) return (await this.connection.upload(path, file, { onProgress, signal })).data;
    const { data } = await this.connection.request(path, { method: "POST", body: file, headers: { "Content-Type": contentType(file) }, signal });
    onProgress?.(1); // Node and service workers do not report more
    return data;
  }
}

/**
 * @param {string} path
 * @param {Record<string, string | number | boolean | undefined>} wishes those that are undefined are left out
 */
export function withQuery(path, wishes) {
  const stated = Object.entries(wishes).filter(([, wish]) => wish !== undefined);
  return stated.length ? `${path}?${new URLSearchParams(stated.map(([name, wish]) => [name, String(wish)]))}` : path;
}

/**
 * @param {string | URL} url
 * @param {AbortSignal} signal
 */
async function fetched(url, signal) {
  let why;
  try {
    const reply = await fetch(url, { signal });
    if (reply.ok) return await reply.blob();
    why = `status ${reply.status}`;
  } catch (error) {
    signal.throwIfAborted();
    why = "no reply, or its site does not let pages of this one read it (CORS)";
  }
  throw new ApiError(0, { code: "picture_not_fetched", message: `The picture at ${url} cannot be fetched: ${why}.` });
}
