/** The keys that a video adds to those of the page. Does not know what they do. */

import { keyOf } from "../keys.js";

const ROWS = [
  ["Video: Left, Right", "Previous, next frame; with Shift, ten frames"],
  ["Video: Space", "Play, pause"],
  ["Video: Home, End", "First, last frame"],
  ["Video: comma, dot", "Previous, next frame with a prompt"],
  ["Video: T, Shift + T", "Track forward, backward"],
  ["Video: Escape", "Stop tracking"],
  ["Video: Enter, then arrow keys", "Move the cross; Escape gives them back to the frames"],
];

export const helpRows = () => ROWS;

const isField = (target) => target.matches("input:not([type=range], [type=checkbox]), select, textarea");
const isControl = (target) => isField(target) || target.matches("button, a, summary, [type=checkbox]");

/** Take keys before the page does, while `current()` is a video. The arrow keys belong to the cross where there is one. */
export function listen({ stage, canvas, current, player, commands }) {
  let space = false; // held down, and nothing was dragged

  const leave = (seek) => () => {
    player.left = true;
    seek();
  };
  const step = (by) => leave(() => player.step(by));
  const actions = {
    ArrowLeft: (event) => step(event.shiftKey ? -10 : -1)(),
    ArrowRight: (event) => step(event.shiftKey ? 10 : 1)(),
    Home: leave(() => player.seek(0)),
    End: leave(() => player.seek(Infinity)),
    ",": leave(() => commands.keyframe(-1)),
    ".": leave(() => commands.keyframe(1)),
    t: () => ((player.left = false), commands.track("forward")),
    T: () => ((player.left = false), commands.track("backward")),
    Escape: () => commands.stop(),
  };

  addEventListener("keydown", (event) => {
    const { target } = event, key = keyOf(event);
    if (!current() || event.altKey || event.ctrlKey || event.metaKey || document.querySelector("dialog[open]")) return;
    if (key === " " && !isControl(target)) {
      event.preventDefault();
      space ||= !event.repeat;
      return;
    }
    const crossed = target === stage && canvas.cursor && /^Arrow/.test(key);
    if (!Object.hasOwn(actions, key) || isField(target) || crossed) return;
    if (key === "Escape" && !actions.Escape()) return; // the page's own meaning
    if (key !== "Escape") actions[key](event);
    event.preventDefault();
    event.stopImmediatePropagation();
  }, true);
  addEventListener("pointerdown", () => (space = false), true);
  addEventListener("keyup", ({ key }) => {
    if (key !== " ") return;
    if (space && current()) player.toggle();
    space = false;
  });
}
