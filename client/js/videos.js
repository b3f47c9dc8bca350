/** A video that a server has stored: its frames as pictures. Does not know what is followed through them. */

import { withQuery } from "./client.js";
import { unexpectedReply } from "./errors.js";

/**
 * @import { CallOptions, Client } from "./client.js"
 */

/** @typedef {{video_id: string, frames: number, width: number, height: number, fps: number, times: number[]}} WireVideo */

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
  async frame(frame, { type = "image/jpeg", ...options } = {}) {
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
    const path = `videos/${encodeURIComponent(this.videoId)}`;
    await this.#client.call((signal) => this.#client.connection.open(path, { method: "DELETE", signal }), options);
  }
}

/**
 * See Client.video.
 * @param {Client} client
 * @param {Blob} file
 * @param {VideoOptions & CallOptions} [options]
 */
export async function uploadVideo(client, file, { videoId, replace, fps, startS, endS, maxFrames, onProgress, ...options } = {}) {
  if (!(file instanceof Blob)) throw new TypeError("A video is a File or a Blob.");
  const path = withQuery("videos", { video_id: videoId, replace, fps, start_s: startS, end_s: endS, max_frames: maxFrames });
  return new Video(client, await client.call((signal) => client.send(path, file.slice(), { onProgress, signal }), options)); // without its type: the server looks at the content
}

/**
 * See Client.openVideo.
 * @param {Client} client
 * @param {string} videoId
 * @param {CallOptions} [options]
 */
export async function openVideo(client, videoId, options) {
  return new Video(client, await client.get(`videos/${encodeURIComponent(videoId)}`, options));
}
