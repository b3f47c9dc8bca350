/** A video that a server has stored: its frames as pictures. Does not know what is followed through them. */

import { unexpectedReply } from "./errors.js";

/**
 * @import { CallOptions, Client } from "./client.js"
 */

/** @typedef {{video_id: string, frames: number, width: number, height: number, fps: number, times: number[]}} WireVideo */

export class Video {
  #client;

  /**
   * @param {Client} client
   * @param {WireVideo} wire what POST /videos replied
   */
  constructor(client, { video_id, frames, width, height, fps, times }) {
    if (typeof video_id !== "string" || !Array.isArray(times)) throw unexpectedReply("The video");
    this.#client = client;
    this.videoId = video_id;
    /** Their number; the first is frame 0. */
    this.frames = frames;
    /** In pixels, as browsers show the video: upright, and with square pixels. */
    this.width = width;
    this.height = height;
    /** As asked for, or the mean rate of the file. */
    this.fps = fps;
    /** When each frame is on screen, in seconds after the file's first. */
    this.times = times;
  }

  /**
   * A frame as a picture, for createImageBitmap or an object URL. PNG is exact and slow.
   * @param {number} frame
   * @param {{type?: "image/jpeg" | "image/png"} & CallOptions} [options]
   * @returns {Promise<Blob>}
   */
  frame(frame, { type = "image/jpeg", ...options } = {}) {
    const { connection } = this.#client;
    const path = `videos/${encodeURIComponent(this.videoId)}/frames/${frame}`;
    return this.#client.call(async (signal) => {
      const reply = await connection.open(path, { headers: { Accept: type }, signal });
      return connection.heard(reply.blob(), signal);
    }, options);
  }

  /**
   * Forget the video and the embeddings of its frames.
   * @param {CallOptions} [options]
   */
  async delete(options) {
    await this.#client.remove(`videos/${encodeURIComponent(this.videoId)}`, options);
  }
}
