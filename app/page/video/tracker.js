/**
 * Keeps server and video in step: uploads it, begins its track, sends the prompts that differ, and propagates. A server that has
 * forgotten something is given it again. Does not know how frames are shown.
 */

import { client } from "../api.js";
import { patiently } from "../patience.js";
import { asked } from "../prompts.js";
import { Prompts } from "./sent_prompts.js";

const MIB = 2 ** 20;
const FORGOTTEN = "The server has forgotten this video twice in a row. Click on its thumbnail to try again. If that does not help, its " +
  "SAM2_VIDEO_CACHE_MIB or SAM2_MAX_TRACKS is too small, or several servers behind this address do not share a SAM2_CACHE_DIR.";
const CROWDED = "The server keeps forgetting the track of this video: another window or program takes its place. Close that one, or have the " +
  "server's SAM2_MAX_TRACKS raised. Then click on the video's thumbnail to go on.";
const MOST_LOSSES = 2, LOSSES_MS = 5 * 60_000; // in that time: more are no restarts
const STORE_MS = 5000; // how much of a propagation may be lost with the window
const LOST = ["video_not_found", "track_not_found", "image_not_found"];

/** What the page stores of a mask. */
const kept = ({ mask, score, visible }) => ({ counts: mask.rle.counts, iou: mask.iou, stability: mask.stability, area: mask.area, bbox: mask.bbox, score, visible });

export class Tracker {
  #remotes = new WeakMap(); // by video: what the server has of it, and what is under way
  #due = 0; // when what is tracked is stored next

  constructor(session, requests, notice) {
    Object.assign(this, { session, requests, notice });
  }

  /** Send what the server lacks of the current video. Resolves once it has everything. */
  follow(video) {
    const remote = this.#remote(video);
    const complete = video.ready && !remote.prompts.next(video);
    if (video.problem || (complete && !remote.working)) return Promise.resolve();
    if (remote.streaming && remote.streaming === remote.track && !complete) remote.propagation.abort(); // prompts go first
    return (remote.working ??= this.#follow(video, remote).finally(() => (remote.working = null)));
  }

  /** Give the server what it no longer has. Returns whether that may help; if not, it is the video's problem. */
  recover(video, { code }) {
    const remote = this.#remote(video);
    if (!LOST.includes(code)) return false;
    const now = performance.now(), lately = (times) => [...times.filter((at) => at > now - LOSSES_MS), now];
    remote.forgotten = lately(remote.forgotten);
    if (code === "track_not_found") remote.losses = lately(remote.losses);
    const why = remote.losses.length > MOST_LOSSES ? CROWDED : remote.forgotten.length > MOST_LOSSES ? FORGOTTEN : null;
    if (why) {
      Object.assign(remote, { forgotten: [], losses: [] });
      video.problem = why;
      return false;
    }
    Object.assign(remote, { track: null, prompts: new Prompts(), stopped: null });
    if (code === "video_not_found") Object.assign(video, { videoId: null });
    if (code === "image_not_found") video.imageIds = [];
    if (code !== "track_not_found") video.ready = false;
    return true;
  }

  /** The same, unless it is under way: a frame that was asked for may have found `track` lost. */
  #recovers(video, track, error) {
    return (track && track !== this.#remote(video).track) || this.recover(video, error);
  }

  /** Follow the objects: "forward" and "backward" from the keyframe that is next that way, or "both". */
  async propagate(video, direction, onFrame) {
    const remote = this.#remote(video);
    if (remote.propagation || !video.tracked.length) return;
    const abort = (remote.propagation = new AbortController()), { signal } = abort;
    const stopped = new Promise((_, end) => signal.addEventListener("abort", () => end(signal.reason)));
    stopped.catch(() => {}); // where nobody waits for it
    const resumed = remote.stopped?.direction === direction;
    video.working = resumed ? remote.stopped : planned(video, direction);
    this.session.redraw();
    try {
      while (video.working.passes.length) {
        let track = null;
        try {
          await Promise.race([stopped, this.follow(video)]); // what is being sent goes on when this stops
          ({ track } = remote);
          if (!track && (video.problem || !remote.prompts.next(video))) return; // the reason is told, or all objects are gone
          if (!track) continue; // the server has forgotten it again
          remote.streaming = track;
          await patiently(() => this.#pass(video, track, { signal, onFrame }), { notice: this.notice, signal });
          video.working.passes.shift();
        } catch (error) {
          remote.streaming = null;
          if (signal.aborted || !this.#recovers(video, track, error)) throw error;
          video.working = planned(video, direction);
        }
      }
      remote.stopped = null;
      this.notice.say(`${video.working.done} frames are tracked.`);
      if (video.errors.size) this.notice.tell(unread(video.errors));
    } catch (error) {
      if (!signal.aborted) this.notice.tell(`Tracking has ended. ${video.problem || error.message}`);
      remote.stopped = remote.prompts.next(video) ? null : video.working;
    } finally {
      video.working = remote.propagation = null;
      remote.streaming = null;
      this.session.changed(video);
    }
  }

  /** End a propagation. Returns whether there was one. */
  stop(video) {
    const { propagation } = this.#remote(video);
    propagation?.abort();
    if (propagation) this.notice.say("Tracking is stopped. What is done is kept.");
    return !!propagation;
  }

  /** A video that leaves the page: its track is of no use to others. */
  close(video) {
    const { track, propagation, gone } = this.#remote(video);
    gone.abort();
    propagation?.abort();
    track?.delete().catch(() => {}); // it expires
  }

  #remote(video) {
    if (!this.#remotes.has(video)) this.#remotes.set(video, { track: null, prompts: new Prompts(), forgotten: [], losses: [], gone: new AbortController(), working: null, propagation: null, streaming: null, stopped: null });
    return this.#remotes.get(video);
  }

  async #follow(video, remote) {
    await null; // so that those who are told of changes find it at work
    const { signal } = remote.gone, wait = { notice: this.notice, signal };
    for (;;) {
      let step = null, track = null;
      try {
        if (!video.ready) await this.#upload(video, wait);
        step = remote.prompts.next(video);
        if (!step) return;
        track = remote.track ??= await patiently(() => client.track(video.sequence ? video.imageIds : { videoId: video.videoId }, { signal }), wait);
        const { prompts } = remote;
        remote.stopped = null;
        await patiently(() => this.#send(video, { track, prompts }, step), wait);
        remote.forgotten = [];
        this.session.changed(video);
      } catch (error) {
        if (signal.aborted) return;
        if (this.#recovers(video, track, error)) continue;
        if (!step) video.problem ||= error.message;
        else if (!video.problem) this.#refuse(video, remote, step);
        this.notice.tell(video.problem ? `${video.name}: ${video.problem}` : error.message);
        this.session.changed(video);
        if (video.problem) return;
      }
    }
  }

  async #send(video, { track, prompts }, { id, frame, prompt }) {
    if (frame === undefined) await track.removeObject(id);
    else if (!prompt) await track.clearPrompts({ frame, object: id });
    else {
      const { objects } = await track.prompt(asked(prompt, video), { frame, object: id, clear: true });
      const found = objects.find(({ object, mask }) => object === id && mask);
      if (found) video.answer(id, { frame, prompt, mask: kept(found) });
      if (found) this.notice.say(describe(video, id, found));
    }
    prompts.sent(id, frame, prompt);
  }

  /** What makes no sense to the server is not sent again. */
  #refuse(video, { prompts }, { id, frame, prompt }) {
    prompts.refuse(id, frame, prompt);
    if (prompt) video.refuse(id, { frame, prompt });
  }

  /** One way through the frames. Another try goes on there, or begins anew if the server has forgotten these frames. */
  async #pass(video, track, { signal, onFrame }) {
    const { working } = video, [pass] = working.passes, { direction, from, accepts } = pass;
    if (pass.done && !(pass.next in video.times)) return; // only its end was not heard of
    const known = pass.done ? (await track.describe({ signal })).done : [];
    if (!known.some(([first, last]) => first <= pass.tracked && pass.tracked <= last)) {
      working.done -= pass.done;
      Object.assign(pass, { done: 0, next: from });
    }
    for await (const { frame, objects, error } of track.propagate({ from: pass.next, direction, signal })) {
      if (LOST.includes(error?.code)) throw error;
      pass.done++;
      pass.next = direction === "forward" ? frame + 1 : frame - 1;
      if (!error) pass.tracked = frame;
      working.done++;
      if (error) video.errors.set(frame, error.message);
      else video.track(frame, objects.filter(({ object, mask }) => mask && accepts(object, frame)).map((each) => [each.object, kept(each)]));
      const now = performance.now();
      if (now < this.#due) this.session.redraw();
      else {
        this.#due = now + STORE_MS;
        this.session.changed(video);
      }
      onFrame(frame);
    }
  }

  async #upload(video, wait) {
    const { notice, session } = this, { signal } = wait;
    if (video.sequence) await this.#embed(video, wait);
    else if (video.videoId) this.#open(video, await patiently(() => client.openVideo(video.videoId, { signal }), wait));
    else {
      const { limits } = await this.requests.describe(false, signal);
      if (video.file.size > limits.max_video_mib * MIB) // browsers lose a rejection that arrives during an upload
        throw new Error(`The file has ${(video.file.size / MIB).toFixed(1)} MiB, but the server accepts at most ${limits.max_video_mib} MiB.`);
      const onProgress = (share) => {
        Object.assign(video, { progress: share, state: share < 1 ? "Uploading" : "Reading the video" });
        session.redraw();
      };
      this.#open(video, await patiently(() => client.video(video.file, { onProgress, signal }), wait));
    }
    video.ready = true;
    session.changed(video);
    notice.say(`${video.name} is ready: ${video.frames} frames of ${video.width} by ${video.height} pixels.`);
  }

  #open(video, stored) {
    const { videoId, width, height, fps, times } = stored;
    Object.assign(video, { videoId, width, height, fps, times, load: (frame) => this.#frame(video, stored, frame) });
  }

  /** A frame as a picture. A server that has forgotten its video is given it again first, unless it has left the page. */
  async #frame(video, stored, frame) {
    try {
      return await patiently(() => stored.frame(frame), { notice: this.notice });
    } catch (error) {
      if (error.code !== "video_not_found" || this.#remote(video).gone.signal.aborted) throw error;
      if (video.ready) this.recover(video, error);
    }
    await this.follow(video);
    if (video.problem) throw new Error(video.problem);
    return video.load(frame);
  }

  /** Pictures are frames once they are embedded. */
  async #embed(video, wait) {
    for (let at = video.imageIds.length; at < video.file.length; at++) {
      const file = video.file[at];
      Object.assign(video, { progress: at / video.file.length, state: `Embedding frame ${at + 1} of ${video.file.length}` });
      this.session.redraw();
      const { imageId, width, height } = await patiently(() => client.embed(file, { signal: wait.signal }), wait).catch((error) => {
        if (!wait.signal.aborted) error.message = `${file.name}: ${error.message}`;
        throw error;
      });
      if (at && (width !== video.width || height !== video.height))
        throw new Error(`Frames must have one size: ${file.name} has ${width} x ${height} pixels, and ${video.file[0].name} has ${video.width} x ${video.height}.`);
      Object.assign(video, { width, height });
      video.imageIds.push(imageId);
    }
  }
}

/**
 * What is to be done: {direction, done, of, passes: [{direction, from, done, accepts(object, frame)}]}. One way begins at the keyframe
 * at the current frame or before it that way. Both: each object forward from its first keyframe, and backward from there.
 */
function planned({ frame, frames, keyframes, tracked }, direction) {
  const all = () => true, [first] = keyframes;
  const firsts = new Map(tracked.map(({ id, prompts }) => [id, Math.min(...prompts.keys())]));
  const passes = {
    forward: [{ direction, from: keyframes.findLast((each) => each <= frame) ?? first, done: 0, accepts: all }],
    backward: [{ direction, from: keyframes.find((each) => each >= frame) ?? keyframes.at(-1), done: 0, accepts: all }],
    both: [
      { direction: "forward", from: first, done: 0, accepts: all },
      { direction: "backward", from: Math.max(...firsts.values()), done: 0, accepts: (object, at) => at < firsts.get(object) },
    ],
  }[direction].filter((pass) => pass.direction === "forward" || pass.from > 0 || direction === "backward");
  const of = passes.reduce((sum, pass) => sum + (pass.direction === "forward" ? frames - pass.from : pass.from + 1), 0);
  return { direction, passes, done: 0, of };
}

function describe({ tracked, width, height, frame }, id, { mask, visible }) {
  const name = tracked.find((object) => object.id === id)?.name ?? "It";
  if (!visible) return `${name} is not visible on frame ${frame + 1}.`;
  return `${name}: ${+(100 * mask.area / (width * height)).toPrecision(2)} % of frame ${frame + 1}, predicted IoU ${mask.iou.toFixed(2)}.`;
}

function unread(errors) {
  const [[first, message]] = errors, more = errors.size - 1;
  return `Frame ${first + 1} cannot be read${more ? `, nor can ${more} other${more > 1 ? "s" : ""}` : ""}; the rest is tracked. ${message}`;
}
