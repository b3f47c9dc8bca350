/** A track: objects that a server follows through frames, from a prompt or more. Does not know where the frames are from. */

import { ApiError, statusOf, unexpectedReply } from "./errors.js";
import { linesOf } from "./lines.js";
import { Mask } from "./masks.js";
import { maskFields, promptFields } from "./prompts.js";
import { isLost } from "./retries.js";

/**
 * @import { CallOptions, Client } from "./client.js"
 * @import { Picture } from "./pictures.js"
 * @import { MaskOptions, Prompt } from "./prompts.js"
 * @import { Video } from "./videos.js"
 */

/** @typedef {{track_id: string, frames: number, width: number, height: number, tracker: "memory" | "mask_prompt"}} WireTrack */

/**
 * @typedef {object} TrackedObject an object on one frame
 * @property {number} object your own number
 * @property {Mask | null} mask null if the frame was tracked too long ago: propagate over it again
 * @property {number} score a logit of its presence
 * @property {boolean} visible whether the score is above 0
 */

/**
 * @typedef {object} TrackedFrame
 * @property {number} frame
 * @property {TrackedObject[]} objects in the order added
 * @property {ApiError} [error] why this frame cannot be read; then `objects` is empty, and the work goes on
 */

/**
 * @typedef {object} ShownOptions
 * @property {boolean} [nonOverlapping] each pixel belongs to one object
 */

/**
 * @typedef {object} WhereOptions
 * @property {number} frame from 0
 * @property {number} [object] your own number; 1 if left out
 * @property {boolean} [clear] replace the object's earlier clicks on this frame; a box needs it where there are any
 */

/**
 * @typedef {object} RangeOptions
 * @property {number} [from] left out: where a propagation was stopped or, if prompts have changed since, the earliest prompt
 * @property {number} [to] included; left out: the end that way
 * @property {"forward" | "backward" | "both"} [direction]
 */

/**
 * @typedef {object} TrackOptions
 * @property {string} [trackId] your own name for the track
 * @property {"kept" | "meta"} [corrections] what becomes of a prompt on a frame that is tracked again: meta loses it
 */

const BUSY_WAIT_MS = 100; // while a propagation that this client has left comes to its end
const BUSY_TRIES = 100;
const LONGEST_TIMER_MS = 2 ** 31 - 1; // a longer one fires at once

export class Track {
  #client;
  #path;

  /**
   * @param {Client} client
   * @param {WireTrack} wire what POST /tracks replied
   */
  constructor(client, { track_id, frames, width, height, tracker }) {
    if (typeof track_id !== "string") throw unexpectedReply("The track");
    this.#client = client;
    this.#path = `tracks/${encodeURIComponent(track_id)}`;
    this.trackId = track_id;
    /** Their number. */
    this.frames = frames;
    /** Of every frame, in pixels. */
    this.width = width;
    this.height = height;
    /** "memory": SAM 2's own. "mask_prompt": each mask is the prompt of the next frame, for models that know pictures only. */
    this.tracker = tracker;
  }

  /**
   * Say where an object is on a frame. Returns all objects on that frame.
   * @param {Prompt} prompt
   * @param {WhereOptions & ShownOptions & MaskOptions & CallOptions} options
   * @returns {Promise<TrackedFrame>}
   */
  async prompt(prompt, { frame, object = 1, clear = false, ...options }) {
    const body = { frame, object, clear, ...promptFields(prompt), ...shownFields(options) };
    const post = (/** @type {AbortSignal} */ signal) =>
      unlessBusy(() => this.#client.connection.post(`${this.#path}/prompts`, body, { signal }), signal);
    const once = !clear; // clicks that arrive twice are added twice
    return frameOf((await this.#client.call(post, options, { once })).data);
  }

  /**
   * A click on an object, on a frame.
   * @param {[number, number]} point x, y in pixels of the frame
   * @param {{label?: 0 | 1} & WhereOptions & ShownOptions & MaskOptions & CallOptions} options label 0: not on the object
   */
  async click(point, { label = 1, ...options }) {
    return this.prompt({ points: [point], labels: [label] }, options);
  }

  /**
   * Follow the objects from frame to frame: yields each when it is done, in the order of the work. To stop, leave the loop or
   * abort the signal: what is done is kept, and the next call without `from` goes on where the server stopped, which may be a frame
   * or more after the last that you got. The deadline is for each wait for a frame.
   * @param {RangeOptions & ShownOptions & MaskOptions & CallOptions} [options]
   * @returns {AsyncGenerator<TrackedFrame, void, void>}
   */
  async *propagate({ from, to, direction = "forward", ...options } = {}) {
    const { connection } = this.#client, { deadlineS = this.#client.deadlineS } = options, silence = new AbortController();
    const signal = options.signal ? AbortSignal.any([options.signal, silence.signal]) : silence.signal;
    const body = JSON.stringify({ from, to, direction, ...shownFields(options) });
    const reply = await this.#client.call((either) => unlessBusy(() => connection.open(`${this.#path}/propagate`, {
      method: "POST", body, headers: { "Content-Type": "application/json", Accept: "application/x-ndjson" }, signal: either,
    }), either), { ...options, signal });
    const wait = () => setTimeout(() => silence.abort(noFrame(deadlineS)), Math.min(deadlineS * 1000, LONGEST_TIMER_MS));
    let timer = wait();
    try {
      for await (const line of linesOf(connection, reply, signal)) {
        clearTimeout(timer); // who reads may take their time
        if (line.done) return;
        if (line.error && line.frame === undefined) throw errorOfLine(line.error);
        yield frameOf(line);
        timer = wait();
      }
    } finally {
      clearTimeout(timer);
    }
    throw connection.silent(); // cut off
  }

  /**
   * What the server knows of it, as in GET /tracks/{track_id}: prompts, frames done, where it goes on.
   * @param {CallOptions} [options]
   * @returns {Promise<any>}
   */
  describe(options) {
    return this.#client.get(this.#path, options);
  }

  /**
   * Forget an object.
   * @param {number} object
   * @param {CallOptions} [options]
   */
  async removeObject(object, options) {
    await this.#remove(`objects/${object}`, options);
  }

  /**
   * Take an object's prompts on a frame back. An object without any other is dropped: then returns a sentence, otherwise null.
   * @param {{frame: number, object?: number} & CallOptions} where
   * @returns {Promise<string | null>}
   */
  async clearPrompts({ frame, object = 1, ...options }) {
    const reply = await this.#remove(`objects/${object}/prompts/${frame}`, options);
    return reply ? JSON.parse(reply).dropped : null;
  }

  /**
   * Forget the track; a propagation of it ends.
   * @param {CallOptions} [options]
   */
  async delete(options) {
    await this.#client.call((signal) => this.#client.connection.open(this.#path, { method: "DELETE", signal }), options);
  }

  /**
   * The reply's text, which is mostly empty.
   * @param {string} what
   * @param {CallOptions} [options]
   */
  #remove(what, options) {
    const { connection } = this.#client;
    return this.#client.call((signal) => unlessBusy(async () => {
      const reply = await connection.open(`${this.#path}/${what}`, { method: "DELETE", signal });
      return connection.heard(reply.text(), signal);
    }, signal), options);
  }
}

/** @param {number} seconds */
const noFrame = (seconds) =>
  new ApiError(0, { code: "timed_out", message: `There was no frame within ${seconds} s, the deadline for each. What is done is kept.` });

/** @param {ShownOptions & MaskOptions} options logits are left out unless asked for: there are many frames */
const shownFields = ({ nonOverlapping = false, logits = false, ...options }) =>
  ({ non_overlapping: nonOverlapping, ...maskFields({ ...options, logits }) });

/** What errors.js lacks: the statuses of errors that only lines of a propagation have, or none has. */
const STATUS = /** @type {Record<string, number>} */ ({
  unauthorized: 401, origin_refused: 403, frame_not_found: 404, track_not_found: 404, video_not_found: 404,
  image_id_conflict: 409, track_busy: 409, track_id_conflict: 409, video_id_conflict: 409,
  image_too_large: 413, video_too_large: 413, unsupported_media_type: 415, host_not_allowed: 421,
  invalid_frame: 422, invalid_image: 422, invalid_video: 422, request_head_too_large: 431, tracking_unavailable: 501,
});

/** @param {{code: string, message: string}} error of a line */
export const errorOfLine = (error) => new ApiError(STATUS[error.code] ?? statusOf(error.code), error);

/**
 * @param {any} line
 * @returns {TrackedFrame}
 */
function frameOf({ frame, objects = [], error }) {
  try {
    const found = objects.map((/** @type {any} */ { object, masks: [mask], score, visible }) =>
      ({ object, mask: mask ? new Mask(mask) : null, score, visible }));
    return { frame, objects: found, ...(error && { error: errorOfLine(error) }) };
  } catch {
    throw unexpectedReply("The frame");
  }
}

/**
 * The result of `task`. A propagation whose reader has gone ends with its frame: until then the server refuses others.
 * @template T
 * @param {() => Promise<T>} task
 * @param {AbortSignal} signal
 * @returns {Promise<T>}
 */
async function unlessBusy(task, signal) {
  for (let tried = 1; ; tried++) {
    try {
      return await task();
    } catch (error) {
      if (!(error instanceof ApiError) || error.code !== "track_busy" || tried === BUSY_TRIES) throw error;
    }
    await new Promise((resolve) => setTimeout(resolve, BUSY_WAIT_MS));
    signal.throwIfAborted();
  }
}

/**
 * See Client.track.
 * @param {Client} client
 * @param {Video | (Picture | string)[]} frames
 * @param {TrackOptions & CallOptions} [options]
 */
export async function beginTrack(client, frames, { trackId, corrections, ...options } = {}) {
  const which = Array.isArray(frames)
    ? { frames: frames.map(idOf) }
    : { video_id: frames.videoId };
  const body = { ...which, track_id: trackId, corrections };
  let lost = false; // a reply: the track may be begun then
  /** @type {CallOptions["onRetry"]} */
  const onRetry = (error, seconds) => {
    lost ||= isLost(error);
    options.onRetry?.(error, seconds);
  };
  try {
    return new Track(client, await client.call(async (signal) => (await client.connection.post("tracks", body, { signal })).data, { ...options, onRetry }));
  } catch (error) {
    if (!lost || !(error instanceof ApiError) || error.code !== "track_id_conflict") throw error;
    const mine = await client.get(`tracks/${trackId}`, options), { length } = body.frames ?? { length: mine.frames };
    if (mine.objects.length || mine.frames !== length || mine.video_id !== (body.video_id ?? null)) throw error;
    return new Track(client, mine);
  }
}

/**
 * @param {Picture | string} frame
 * @param {number} index
 */
function idOf(frame, index) {
  if (typeof frame === "string") return frame;
  if (frame.region) throw new RangeError(`Frame ${index} is a part of a picture: a track needs whole ones.`);
  return frame.imageId;
}

/**
 * See Client.openTrack.
 * @param {Client} client
 * @param {string} trackId
 * @param {CallOptions} [options]
 */
export async function openTrack(client, trackId, options) {
  return new Track(client, await client.get(`tracks/${encodeURIComponent(trackId)}`, options));
}
