/** Starts the part of the page for videos, when the first one comes: creates its parts and connects them with the page's. */

import { Video } from "./video.js";
import { exportVideo } from "./exports.js";
import { inOrder, isPicture, isVideo } from "./kinds.js";
import { helpRows, listen } from "./keys.js";
import { Player } from "./player.js";
import { Timeline } from "./timeline.js";
import { Tracker } from "./tracker.js";

let workspace = null;

/** The one workspace of the page. */
export const start = (page) => (workspace ??= new Workspace(page));

const $ = (selector) => document.querySelector(selector);

/** What is of use for videos only, or for pictures only. */
function showFor(video) {
  for (const kind of ["polygons", "yolo"]) $(`[data-save=${kind}]`).hidden = video;
  $("[data-save=overlay]").hidden = !video;
  $("#all-pictures").parentElement.hidden = video;
  for (const option of ["refine", "hover"]) $(`#${option}`).disabled = video;
}

class Workspace {
  constructor({ session, requests, notice, canvas, stage, listHelp }) {
    Object.assign(this, { session, notice });
    this.tracker = new Tracker(session, requests, notice);
    this.player = new Player(session, (error, frame) => this.#unreadable(error, frame));
    this.timeline = new Timeline(this.player, this.commands());
    document.head.append(Object.assign(document.createElement("link"), { rel: "stylesheet", href: "page/video/video.css" }));
    listen({ stage, canvas, current: () => this.current, player: this.player, commands: this.commands() });
    listHelp(helpRows());
    session.addEventListener("change", () => this.#render());
    this.#render();
  }

  get current() {
    return this.session.current?.video ? this.session.current : null;
  }

  /** Add videos, and pictures each for itself or all as the frames of one. Returns how many files were any. */
  async take(files, { asFrames }) {
    const kinds = await Promise.all(files.map(isVideo));
    const videos = files.filter((_, at) => kinds[at]), pictures = files.filter((file, at) => !kinds[at] && isPicture(file));
    const together = asFrames && pictures.length > 1 ? inOrder(pictures) : null;
    const added = videos.map((file) => this.#add({ name: file.name || "video", file }));
    if (together) added.push(this.#add({ name: `${together[0].name} and ${together.length - 1} more`, file: together, sequence: true }));
    const alone = together ? 0 : this.session.add(pictures);
    if (added.length) this.session.show(added[0]);
    return videos.length + (together ? pictures.length : alone);
  }

  async save(kind) {
    const { current: video, notice } = this;
    this.player.pause();
    try {
      return await exportVideo(kind, video, { notice, timeline: this.timeline });
    } catch (error) {
      if (error.name !== "AbortError") notice.tell(`Nothing is exported. ${error.message}`);
      return null;
    }
  }

  commands() {
    const { session, player, tracker } = this;
    return {
      track: (direction) => {
        const video = this.current;
        if (video) tracker.propagate(video, direction, (frame) => video === this.current && this.#watch(frame));
      },
      stop: () => this.current && tracker.stop(this.current),
      clearFrame: () => (this.current?.clearFrame(), session.changed()),
      keyframe: (way) => {
        const { keyframes } = this.current;
        const next = way > 0 ? keyframes.find((frame) => frame > player.wanted) : keyframes.findLast((frame) => frame < player.wanted);
        if (next !== undefined) player.seek(next);
      },
    };
  }

  #add(fields) {
    const video = new Video({ id: `${Date.now()}-v${String(this.session.pictures.length).padStart(4, "0")}`, ...fields });
    this.session.keep(video);
    return video;
  }

  #watch(frame) {
    if (!this.player.left) this.player.watch(frame);
  }

  #unreadable(error, frame) {
    this.current.errors.set(frame, error.message);
    this.notice.tell(`Frame ${frame + 1} cannot be shown. ${error.message}`);
  }

  #render() {
    const { current: video } = this;
    if (video) video.close ??= () => this.tracker.close(video);
    this.player.open(video);
    if (video) {
      this.tracker.follow(video);
      this.player.follow();
    }
    this.timeline.render(video);
    showFor(!!video);
  }
}
