/** All keys of the page, with their commands and their texts in the help panel. Does not know what the commands do. */

/** [keys, command, help text]. A command with an argument is [name, argument]. */
const PAGE_KEYS = [
  [["z"], "undo", "Undo"],
  [["y", "Z"], "redo", "Redo"],
  [["1"], ["choose", 0], "First candidate"],
  [["2"], ["choose", 1], "Second candidate"],
  [["3"], ["choose", 2], "Third candidate"],
  [["m"], "three", "Get three candidates"],
  [["a"], "accept", "Accept the object; the next click starts a new one"],
  [["n"], "begin", "New object"],
  [["Delete", "Backspace"], "remove", "Delete the object"],
  [["s"], "everything", "Everything: find every object; again: cancel or clear"],
  [["w"], "larger", "Everything: the next larger object under the pointer"],
  [["x"], "label", "Clicks mark the object or the background"],
  [["r"], "refine", "Refine the current mask, on or off"],
  [["c"], "closer", "Refine small objects on a closer look, on or off"],
  [["h"], "hover", "Preview the mask under the pointer, on or off"],
  [["+", "="], ["zoom", 1.25], "Zoom in"],
  [["-"], ["zoom", 0.8], "Zoom out"],
  [["0"], "fit", "Show the whole picture"],
  [["o"], "open", "Add pictures"],
  [["PageDown"], ["turn", 1], "Next picture"],
  [["PageUp"], ["turn", -1], "Previous picture"],
  [["e"], "coco", "Export COCO JSON"],
  [["?"], "help", "This help"],
  [["Escape"], "cancel", "Cancel the search, the box or the cross; clear Everything"],
];

const STAGE_KEYS = [
  [["ArrowLeft"], ["move", [-1, 0]], ""],
  [["ArrowRight"], ["move", [1, 0]], ""],
  [["ArrowUp"], ["move", [0, -1]], ""],
  [["ArrowDown"], ["move", [0, 1]], "Move the cross; with Shift, by one pixel"],
  [["Enter"], ["place", 1], "Object at the cross; with Shift, background"],
  [["b"], "corner", "Box: first and then second corner at the cross"],
];

const POINTER = [
  ["Click, tap", "Object"],
  ["Right click, Shift or Ctrl + click, long press", "Background"],
  ["Drag", "Box around the object"],
  ["Wheel, pinch", "Zoom"],
  ["Space + drag, middle button, two fingers", "Move the picture"],
];

/** Whether a key belongs to the field that has the focus. A slider needs few of them. */
const isTyping = ({ target, key }) =>
  target.matches("input[type=range]") ? /^(Arrow|Page|Home|End)/.test(key) : target.matches("input:not([type=checkbox]), select, textarea");

/** The key as it is without Caps Lock. On a keyboard of other letters, as Cyrillic ones, the Latin letter at its place. */
export function keyOf({ key = "", code = "", shiftKey }) {
  if (key.length > 1) return key;
  const letter = key > "~" && code.startsWith("Key") ? code[3] : key;
  return shiftKey ? letter.toUpperCase() : letter.toLowerCase();
}

/** Run `commands` by name. Those of the stage need its focus. Keys in text fields are left alone. */
export function listen(stage, commands) {
  addEventListener("keydown", (event) => {
    if (event.altKey || isTyping(event) || document.querySelector("dialog[open]")) return;
    const control = event.ctrlKey || event.metaKey;
    const key = keyOf(event);
    const table = control ? PAGE_KEYS.slice(0, 2) : event.target === stage ? [...STAGE_KEYS, ...PAGE_KEYS] : PAGE_KEYS;
    const found = table.find(([keys]) => keys.includes(key));
    if (!found) return;
    event.preventDefault();
    const [name, argument] = Array.isArray(found[1]) ? found[1] : [found[1]];
    commands[name](argument, event);
  });
}

/** The rows of the help panel: [keys, help text]. */
export function helpRows() {
  const named = (keys) => keys.map((key) => (/^[A-Z]$/.test(key) ? `Shift + ${key}` : /^[a-z]$/.test(key) ? key.toUpperCase() : key)).join(", ");
  const cross = STAGE_KEYS.filter(([, , what]) => what).map(([keys, , what]) => [keys[0] === "ArrowDown" ? "Arrow keys" : named(keys), what]);
  return [...POINTER, ...cross, ...PAGE_KEYS.map(([keys, , what]) => [named(keys), what])];
}
