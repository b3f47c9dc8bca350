/** A server, as a web tool uses it: pictures and videos in, with retries and a deadline for each call. Does not draw. */

import { Connection, contentType } from "./connection.js";
import { ApiError } from "./errors.js";
import { Hover } from "./hover.js";
import { Picture } from "./pictures.js";
import { retrying } from "./retries.js";

/**
 * @import { Track } from "./tracks.js"
 * @import { Video } from "./videos.js"
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

/**
 * @typedef {object} VideoOptions
 * @property {string} [videoId] your own name for the video
 * @property {boolean} [replace] give an existing name to this video
 * @property {number} [fps] so many frames a second; left out: every frame of the file
 * @property {number} [startS] only frames from here, in seconds after the first
 * @property {number} [endS] only frames before this
 * @property {number} [maxFrames] only so many
 * @property {(share: number) => void} [onProgress] gets the fraction sent, 0..1
 */

/**
 * @typedef {object} TrackOptions
 * @property {string} [trackId] your own name for the track
 * @property {"kept" | "meta"} [corrections] what becomes of a prompt on a frame that is tracked again: meta loses it
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
    const { imageId, replace, stretch, onProgress } = options;
    const path = withQuery("embed", { image_id: imageId, replace, stretch });
    /** @param {CallOptions} call */
    const send = (call) => this.call(async (signal) => {
      file ??= await fetched(/** @type {string | URL} */ (source), signal);
      return this.#send(path, file, { onProgress, signal });
    }, call);
    return new Picture(this, await send(options), () => send({}));
  }

  /**
   * A picture that the server already has.
   * @param {string} imageId
   * @param {CallOptions} [options]
   */
  async open(imageId, options) {
    return new Picture(this, await this.#get(`images/${encodeURIComponent(imageId)}`, options));
  }

  /**
   * Name, device, precision and limits, as in GET /model.
   * @param {CallOptions} [options]
   * @returns {Promise<any>}
   */
  model(options) {
    return this.#get("model", options);
  }

  /**
   * Upload a video, or an animated GIF. Its frames are decoded when they are needed.
   * @param {Blob} file
   * @param {VideoOptions & CallOptions} [options]
   * @returns {Promise<Video>}
   */
  async video(file, { videoId, replace, fps, startS, endS, maxFrames, onProgress, ...options } = {}) {
    const path = withQuery("videos", { video_id: videoId, replace, fps, start_s: startS, end_s: endS, max_frames: maxFrames });
    const { Video } = await import("./videos.js"); // loaded when they are needed, as tracks are: most pages show pictures
    return new Video(this, await this.call((signal) => this.#send(path, file, { onProgress, signal }), options));
  }

  /**
   * A video that the server already has.
   * @param {string} videoId
   * @param {CallOptions} [options]
   * @returns {Promise<Video>}
   */
  async openVideo(videoId, options) {
    const { Video } = await import("./videos.js");
    return new Video(this, await this.#get(`videos/${encodeURIComponent(videoId)}`, options));
  }

  /**
   * Begin a track: objects will be followed through frames. Costs nothing until the first prompt.
   * @param {Video | (Picture | string)[]} frames a video, or pictures or their ids, all of one size
   * @param {TrackOptions & CallOptions} [options]
   * @returns {Promise<Track>}
   */
  async track(frames, { trackId, corrections, ...options } = {}) {
    const which = Array.isArray(frames)
      ? { frames: frames.map((frame) => (typeof frame === "string" ? frame : frame.imageId)) }
      : { video_id: frames.videoId };
    const { Track } = await import("./tracks.js");
    const body = { ...which, track_id: trackId, corrections };
    return new Track(this, await this.call(async (signal) => (await this.connection.post("tracks", body, { signal })).data, options));
  }

  /**
   * A track that was begun before.
   * @param {string} trackId
   * @param {CallOptions} [options]
   * @returns {Promise<Track>}
   */
  async openTrack(trackId, options) {
    const { Track } = await import("./tracks.js");
    return new Track(this, await this.#get(`tracks/${encodeURIComponent(trackId)}`, options));
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
   * @param {{once?: boolean}} [manner] once: not again where the server may have done it
   */
  call(task, { signal, deadlineS = this.deadlineS, onRetry } = {}, { once = false } = {}) {
    return retrying(task, { retries: this.retries, deadlineS, signal, onRetry, once });
  }

  /**
   * DELETE. Returns the reply's text, which is mostly empty.
   * @param {string} path
   * @param {CallOptions} [options]
   * @param {(task: () => Promise<string>, signal: AbortSignal) => Promise<string>} [through] repeats it as long as that may help
   */
  remove(path, options, through = (task) => task()) {
    return this.call((signal) => through(async () => {
      const reply = await this.connection.open(path, { method: "DELETE", signal });
      return this.connection.heard(reply.text(), signal);
    }, signal), options);
  }

  /**
   * @param {string} path
   * @param {CallOptions} [options]
   */
  #get(path, options) {
    return this.call(async (signal) => (await this.connection.request(path, { signal })).data, options);
  }

  /**
   * POST a file. Returns the body of the reply.
   * @param {string} path
   * @param {Blob} file
   * @param {{onProgress?: (share: number) => void, signal: AbortSignal}} options
   */
  async #send(path, file, { onProgress, signal }) {
    if (onProgress) return (await this.connection.upload(path, file, { onProgress, signal })).data;
    return (await this.connection.request(path, { method: "POST", body: file, headers: { "Content-Type": contentType(file) }, signal })).data;
  }
}

/**
 * @param {string} path
 * @param {Record<string, string | number | boolean | undefined>} wishes those that are undefined are left out
 */
function withQuery(path, wishes) {
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
