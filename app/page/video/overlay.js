/**
 * Records a video with its masks drawn over it, as the browser's MediaRecorder writes it: WebM, or MP4 where that is all it knows.
 * Recording takes as long as the video. Does not know about files.
 */

import { withRuns } from "../picture.js";
import { paint, pixel } from "../../client/raster.js";
import { Frames } from "./frames.js";

const TYPES = ["video/webm;codecs=vp9", "video/webm;codecs=vp8", "video/webm", "video/mp4"];
const BITS_A_PIXEL = 0.2; // of every frame, which is what a sharp outline takes
const LAST_FRAME_S = 0.1; // if it is the only one
const even = (side) => side + side % 2; // encoders halve the colours

/** Returns {name, blob}. Rejects with AbortError if the user stops it. */
export async function recordOverlay(video, { timeline }) {
  const type = globalThis.MediaRecorder && TYPES.find((each) => MediaRecorder.isTypeSupported(each));
  if (!type) throw new Error("This browser cannot record video. Export PNG masks, or open the page in Chrome, Edge, Firefox or Safari.");
  const canvas = Object.assign(document.createElement("canvas"), { width: even(video.width), height: even(video.height) });
  const context = canvas.getContext("2d");
  const stream = canvas.captureStream(0), [track] = stream.getVideoTracks();
  const captured = track.requestFrame ? track : stream; // the stream in Firefox
  const rate = video.frames / Math.max(video.times.at(-1), LAST_FRAME_S);
  const bits = Math.min(Math.max(canvas.width * canvas.height * rate * BITS_A_PIXEL, 1e6), 40e6);
  const recorder = new MediaRecorder(stream, { mimeType: type, videoBitsPerSecond: Math.round(bits) });
  const parts = [], frames = new Frames(video), abort = new AbortController();
  recorder.ondataavailable = ({ data }) => parts.push(data);
  const ended = new Promise((resolve, reject) => Object.assign(recorder, { onstop: resolve, onerror: ({ error }) => reject(error) }));
  const work = timeline.begin("Recording", () => abort.abort());
  const unlessStopped = stoppable(abort.signal);
  try {
    let next = loading(frames, 0), due = null;
    for (let frame = 0; frame < video.frames; frame++) {
      draw(context, video, { frame, bitmap: await unlessStopped(next.bitmap) });
      if (frame === 0) await started(recorder, captured);
      else captured.requestFrame();
      work.show(frame + 1, video.frames);
      due = (due ?? performance.now()) + 1000 * secondsOf(video, frame);
      next = loading(frames, frame + 1 < video.frames ? frame + 1 : frame);
      frames.prepare(frame + 1);
      await unlessStopped(Promise.all([new Promise((resolve) => setTimeout(resolve, due - performance.now())), rendered()]));
      if (next.loaded) continue;
      const since = performance.now();
      recorder.pause(); // waiting for a frame takes no time in the video
      await unlessStopped(next.bitmap);
      recorder.resume();
      due += performance.now() - since;
    }
    captured.requestFrame(); // gives the last frame its time
    recorder.stop();
    await ended;
  } finally {
    if (recorder.state !== "inactive") recorder.stop();
    track.stop();
    frames.close();
    work.end();
  }
  const suffix = type.includes("mp4") ? "mp4" : "webm";
  return { name: `${video.name.replace(/\.\w+$/, "")}-overlay.${suffix}`, blob: new Blob(parts, { type }) };
}

/** Returns a function that waits for a promise, or rejects as soon as the user stops: a frame may stay for long. */
function stoppable(signal) {
  const stopped = new Promise((_, reject) => (signal.onabort = () => reject(signal.reason)));
  stopped.catch(() => {}); // also where nothing waits at that moment
  return (promise) => Promise.race([promise, stopped]);
}

/** Frames that are drawn before would be lost. */
function started(recorder, captured) {
  const began = new Promise((resolve) => (recorder.onstart = resolve));
  recorder.start();
  captured.requestFrame();
  return began;
}

/** A canvas is captured when the page is rendered: what is drawn over before that, on a busy machine, would be lost. */
function rendered() {
  const twice = new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)));
  return Promise.race([twice, new Promise((resolve) => setTimeout(resolve, 1000))]); // a hidden page is not rendered
}

/** A frame on its way: {bitmap, loaded}. The bitmap is null if the frame cannot be read. */
function loading(frames, frame) {
  const found = { loaded: false };
  found.bitmap = frames.get(frame).catch(() => null).finally(() => (found.loaded = true));
  return found;
}

/** How long a frame is on screen. */
function secondsOf({ times }, frame) {
  if (frame + 1 < times.length) return times[frame + 1] - times[frame];
  return times[frame] - times[frame - 1] || LAST_FRAME_S;
}

/** A frame that cannot be read is white. */
function draw(context, video, { frame, bitmap }) {
  const { width, height } = context.canvas;
  context.fillStyle = "#fff";
  context.fillRect(0, 0, width, height);
  if (bitmap) context.drawImage(bitmap, 0, 0);
  const layer = context.createImageData(width, height);
  const target = { pixels: new Uint32Array(layer.data.buffer), width, height };
  for (const { masks, hidden, colour } of video.tracked) {
    const mask = masks.get(frame);
    if (!mask?.visible || hidden) continue;
    const thickness = Math.max(Math.round(height / 360), 1);
    paint(withRuns(mask, video), video, { scale: 1, x: 0, y: 0 }, target, { fill: pixel(colour, 0.5), edge: pixel(colour, 1), thickness });
  }
  blend(context, layer);
}

/** Lay the masks over the frame: putImageData alone would replace it. */
function blend(context, layer) {
  const over = new OffscreenCanvas(layer.width, layer.height);
  over.getContext("2d").putImageData(layer, 0, 0);
  context.drawImage(over, 0, 0);
}
