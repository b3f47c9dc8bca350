/** Turns mouse, pen and touch events on the stage into gestures. Does not know about objects and masks. */

const SLOP = 5; // CSS pixels that the pointer may move during a click
const HOLD_MS = 500;
const isAside = ({ shiftKey, ctrlKey }) => shiftKey || ctrlKey; // on a Mac, Ctrl and a click are a right click

/**
 * Calls `meant`: point(at, label), draft(from, to), box(from, to), hover(at, label) or hover(null), pan(dx, dy),
 * zoom(factor, at). Positions are device pixels of the stage, as in `canvas.at`. `label()` is the label of a plain click.
 */
export function listen(stage, canvas, { label, meant }) {
  const down = new Map(); // positions by pointer id
  let began = null; // {at, moved, pan, label, hold}
  let space = false;

  const far = ([ax, ay], [bx, by]) => Math.hypot(ax - bx, ay - by);
  const middle = () => [0, 1].map((axis) => [...down.values()].reduce((sum, at) => sum + at[axis], 0) / down.size);
  const spread = () => (down.size > 1 ? far(...down.values()) : 0);
  const end = () => {
    clearTimeout(began?.hold);
    began = null;
    meant.draft(null);
  };

  stage.addEventListener("keydown", (event) => {
    if (event.key !== " ") return;
    event.preventDefault(); // or it scrolls
    space = true;
  });
  addEventListener("keyup", (event) => {
    if (event.key === " ") space = false;
  });
  addEventListener("blur", () => (space = false)); // another window hears of its release

  stage.addEventListener("pointerdown", (event) => {
    if ([3, 4].includes(event.button)) return; // back and forward
    const at = canvas.at(event);
    stage.setPointerCapture(event.pointerId);
    down.set(event.pointerId, at);
    end();
    meant.hover(null);
    if (down.size > 1) return; // two fingers pan and zoom
    began = { at, moved: false, pan: event.button === 1 || space, label: event.button === 2 || isAside(event) ? 0 : label() };
    if (event.pointerType === "touch")
      began.hold = setTimeout(() => {
        if (!began || began.moved) return;
        navigator.vibrate?.(15);
        end();
        meant.point(at, 0);
      }, HOLD_MS);
  });

  stage.addEventListener("pointermove", (event) => {
    const at = canvas.at(event);
    if (!down.has(event.pointerId)) {
      if (event.pointerType !== "touch") meant.hover(at, isAside(event) ? 0 : label());
      return;
    }
    const [before, wide] = [middle(), spread()];
    const previous = down.get(event.pointerId);
    down.set(event.pointerId, at);
    if (down.size > 1) {
      const now = middle();
      meant.pan(now[0] - before[0], now[1] - before[1]);
      if (wide && spread()) meant.zoom(spread() / wide, now);
    } else if (began) {
      began.moved ||= far(at, began.at) > SLOP * canvas.ratio;
      if (began.pan) meant.pan(at[0] - previous[0], at[1] - previous[1]);
      else if (began.moved) meant.draft(began.at, at);
    }
  });

  stage.addEventListener("pointerup", (event) => {
    const at = canvas.at(event), gesture = began;
    down.delete(event.pointerId);
    if (!gesture) return;
    end();
    if (gesture.pan) return;
    if (gesture.moved) meant.box(gesture.at, at);
    else meant.point(gesture.at, gesture.label);
  });

  stage.addEventListener("pointercancel", (event) => {
    down.delete(event.pointerId);
    end();
  });
  stage.addEventListener("pointerleave", () => meant.hover(null));
  stage.addEventListener("contextmenu", (event) => event.preventDefault());
  stage.addEventListener("wheel", (event) => {
    event.preventDefault();
    const lines = event.deltaMode ? 16 : 1;
    meant.zoom(Math.exp(-event.deltaY * lines * (event.ctrlKey ? 0.01 : 0.0015)), canvas.at(event)); // ctrl means a pinch
  }, { passive: false });

  return { cancel: end };
}
