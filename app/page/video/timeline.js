/** The timeline below a video: steps and plays, shows what is tracked and where prompts are, starts and stops propagations. */

import { attributes, element } from "../panels.js";
import { Lanes } from "./lanes.js";

const WAYS = { backward: "Track back", both: "Track all", forward: "Track forward" };
const TITLES = {
  backward: "Follow the objects backward, from this frame's prompts or the next ones (Shift + T)",
  both: "Follow the objects through the whole video, from the first prompt both ways",
  forward: "Follow the objects forward, from this frame's prompts or the last ones before (T)",
};

const button = (label, title, onclick) => attributes(element("button", { textContent: label, title, onclick }), { "aria-label": title.replace(/ \(.*/, "") });
const group = (...children) => element("div", { className: "group" }, ...children);
const clock = (seconds) => `${Math.floor(seconds / 60)}:${(seconds % 60).toFixed(2).padStart(5, "0")}`;

export class Timeline {
  #video = null;
  #busy = ""; // what is said in place of a propagation, while an export is written
  #cancel = null;

  constructor(player, commands) {
    Object.assign(this, { player, commands });
    this.number = attributes(element("input", { type: "number", min: 1, onchange: () => player.seek(this.number.value - 1) }), { "aria-label": "Frame number" });
    this.number.onkeydown = ({ key }) => key === "Enter" && document.getElementById("stage").focus(); // the next keys are commands
    this.count = element("span", { className: "count" });
    this.play = button("▶", "Play (Space)", () => player.toggle());
    this.clear = button("Clear frame", "Take the selected object's prompts on this frame back", () => commands.clearFrame());
    this.ways = Object.entries(WAYS).map(([way, label]) => element("button", { textContent: label, title: TITLES[way], onclick: () => this.#start(way) }));
    this.start = group(...this.ways);
    this.text = element("span", { className: "work" });
    this.bar = attributes(element("progress", {}), { "aria-label": "Progress" });
    this.stop = element("button", { textContent: "Stop", title: "Stop; what is done is kept (Escape)", onclick: () => this.#stop() });
    this.work = element("div", { className: "row" }, this.text, this.bar, this.stop);
    this.lanes = new Lanes(player);
    this.root = attributes(element("section", { id: "timeline", hidden: true },
      element("div", { className: "tools" },
        group(
          button("‹◆", "Previous frame with a prompt (,)", () => commands.keyframe(-1)),
          button("‹", "Previous frame (Left)", () => player.step(-1)),
          this.play,
          button("›", "Next frame (Right)", () => player.step(1)),
          button("◆›", "Next frame with a prompt (.)", () => commands.keyframe(1)),
        ),
        element("label", { className: "clock" }, "Frame ", this.number, this.count),
        element("span", { className: "gap" }), this.clear, this.start, this.work),
      this.lanes.root), { "aria-label": "Timeline" });
    document.getElementById("canvas").after(this.root);
    player.addEventListener("move", () => this.render(this.#video));
  }

  render(video) {
    this.#video = video;
    this.root.hidden = !video?.frames;
    if (this.root.hidden) return;
    const { player, number } = this, working = video.working;
    const at = player.wanted;
    this.root.dataset.shown = video.shown;
    number.max = video.frames;
    if (document.activeElement !== number) number.value = at + 1;
    this.count.textContent = ` of ${video.frames} · ${clock(video.times[at] ?? 0)}`;
    this.play.textContent = player.playing ? "❚❚" : "▶";
    attributes(this.play, { "aria-label": player.playing ? "Pause" : "Play", "aria-pressed": player.playing });
    this.clear.disabled = !video.object?.prompt.points.length && !video.object?.prompt.box;
    for (const way of this.ways) way.disabled = !video.tracked.length || !video.ready;
    this.#work(working);
    this.lanes.render(video);
  }

  /** Show that an export is written, until `end` is called. `cancel` is called by the button. */
  begin(text, cancel) {
    this.#cancel = cancel;
    return {
      show: (done, of) => {
        this.#busy = { text: `${text}: ${done} of ${of}`, done, of };
        this.#work(null);
      },
      end: () => {
        this.#busy = this.#cancel = null;
        this.render(this.#video);
      },
    };
  }

  /** Progress takes the place of the buttons that start it, and the focus goes along. */
  #work(working) {
    const shown = this.#busy || (working && { text: `Tracking: ${working.done} of ${working.of} frames`, ...working });
    const hide = (part, hidden, instead) => {
      const had = hidden && part.contains(document.activeElement);
      part.hidden = hidden;
      if (had) setTimeout(() => instead.focus());
    };
    hide(this.start, !!shown, this.stop);
    hide(this.work, !shown, this.last ?? this.ways[2]);
    if (!shown) return;
    this.text.textContent = shown.text;
    this.bar.value = shown.done / shown.of;
  }

  #start(way) {
    this.last = this.ways[Object.keys(WAYS).indexOf(way)];
    this.player.left = false;
    this.commands.track(way);
  }

  #stop() {
    if (this.#cancel) this.#cancel();
    else this.commands.stop();
  }
}
