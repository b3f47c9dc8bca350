/** Every key of the page, for the hand and for the help panel alike. Does not know what the commands do. */

/** [keys, command, what it does]; a command with an argument is [name, argument]. */
const PAGE_KEYS = [
  [["z"], "undo", "Undo"],
  [["y", "Z"], "redo", "Redo"],
  [["1"], ["choose", 0], "First candidate"],
  [["2"], ["choose", 1], "Second candidate"],
  [["3"], ["choose", 2], "Third candidate"],
  [["m"], "three", "Ask for three candidates"],
  [["a"], "accept", "Accept: the next click begins another object"],
  [["n"], "begin", "New object"],
  [["Delete", "Backspace"], "remove", "Delete the object"],
  [["x"], "label", "Plain clicks: object or not"],
  [["r"], "refine", "Refine from the mask before, on or off"],
  [["h"], "hover", "Preview under the pointer, on or off"],
  [["+", "="], ["zoom", 1.25], "Zoom in"],
  [["-"], ["zoom", 0.8], "Zoom out"],
  [["0"], "fit", "Whole picture"],
  [["o"], "open", "Add pictures"],
  [["PageDown"], ["turn", 1], "Next picture"],
  [["PageUp"], ["turn", -1], "Picture before"],
  [["e"], "coco", "Export COCO JSON"],
  [["?"], "help", "This help"],
];

const STAGE_KEYS = [
  [["ArrowLeft"], ["move", [-1, 0]], ""],
  [["ArrowRight"], ["move", [1, 0]], ""],
  [["ArrowUp"], ["move", [0, -1]], ""],
  [["ArrowDown"], ["move", [0, 1]], "Move the cross; with Shift by one pixel"],
  [["Enter"], ["place", 1], "Object at the cross; with Shift: not the object"],
  [["b"], "corner", "Corner of a box at the cross, and again for the other"],
  [["Escape"], "cancel", "Give up the box or the cross"],
];

const POINTER = [
  ["Click, tap", "The object"],
  ["Right click, Shift + click, long press", "Not the object"],
  ["Drag", "A box around the object"],
  ["Wheel, pinch", "Zoom"],
  ["Space + drag, middle button, two fingers", "Move the picture"],
];

/** Run `commands` by name; those of the stage while it has the focus. Text fields keep their keys. */
export function listen(stage, commands) {
  addEventListener("keydown", (event) => {
    if (event.altKey || event.target.matches("input, select, textarea") || document.querySelector("dialog[open]")) return;
    const control = event.ctrlKey || event.metaKey;
    const key = event.key.length === 1 && control && event.shiftKey ? event.key.toUpperCase() : event.key;
    const table = control ? PAGE_KEYS.slice(0, 2) : event.target === stage ? [...STAGE_KEYS, ...PAGE_KEYS] : PAGE_KEYS;
    const found = table.find(([keys]) => keys.includes(key));
    if (!found) return;
    event.preventDefault();
    const [name, argument] = Array.isArray(found[1]) ? found[1] : [found[1]];
    commands[name](argument, event);
  });
}

/** The rows of the help panel: [keys, what they do]. */
export function helpRows() {
  const named = (keys) => keys.map((key) => (/^[A-Z]$/.test(key) ? `Shift + ${key}` : /^[a-z]$/.test(key) ? key.toUpperCase() : key)).join(", ");
  const cross = STAGE_KEYS.filter(([, , what]) => what).map(([keys, , what]) => [keys[0] === "ArrowDown" ? "Arrow keys" : named(keys), what]);
  return [...POINTER, ...cross, ...PAGE_KEYS.map(([keys, , what]) => [named(keys), what])];
}
