/** The panels around the picture: thumbnails, objects, candidates, figures. Does not know about requests. */

import { chosenMask, withRuns } from "./picture.js";
import { paint, pixel } from "../client/raster.js";
import { View } from "./view.js";

const $ = (id) => document.getElementById(id);

export function element(tag, properties, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

/** Give `list` one child for each item. Children are reused by key, so that the focus stays where it is. */
function each(list, items, make, update) {
  const kept = new Map([...list.children].map((child) => [child.dataset.key, child]));
  items.forEach((item, at) => {
    const key = String(item.id);
    const child = kept.get(key) ?? make(item);
    child.dataset.key = key;
    kept.delete(key);
    if (list.children[at] !== child) list.insertBefore(child, list.children[at] ?? null);
    child.item = item; // another window may have changed it
    update(child, item);
  });
  for (const child of kept.values()) {
    if (child.contains(document.activeElement)) $("stage").focus();
    child.remove();
  }
}

export function attributes(node, values) {
  for (const [name, value] of Object.entries(values)) node.setAttribute(name, value);
  return node;
}

let last = Promise.resolve(); // thumbnail that is made: one at a time, as each decodes its whole picture

export function thumbnails(session, requests) {
  const make = (picture) => {
    const canvas = element("canvas", { width: 0, height: 0 });
    const reduce = () => createImageBitmap(picture.file, { resizeHeight: 96, resizeQuality: "medium" });
    (picture.poster ?? (last = last.then(reduce, reduce))).then((small) => {
      Object.assign(canvas, { width: small.width, height: small.height });
      canvas.getContext("2d").drawImage(small, 0, 0);
    }, () => {});
    const open = element("button", { className: "open", onclick: () => (made.item.problem ? requests.retry(made.item) : 0, session.show(made.item)) }, canvas, element("span"));
    const remove = element("button", { className: "remove", textContent: "×", title: `Remove ${picture.name}`, onclick: ({ detail }) => (detail > 1 && made.item.objects.length) || session.remove(made.item) }); // or the next goes
    attributes(remove, { "aria-label": remove.title });
    const made = element("li", {}, open, remove);
    return made;
  };
  each($("thumbnails"), session.pictures, make, (item, picture) => {
    const state = picture.problem ? "failed" : picture.imageId ? `${picture.objects.length || "no"} objects` : "uploading";
    const [open] = item.children;
    attributes(open, { "aria-current": picture === session.current, "aria-label": `${picture.name}, ${state}`, title: picture.problem || picture.name });
    item.classList.toggle("problem", !!picture.problem);
    open.lastChild.textContent = picture.problem ? "!" : picture.imageId ? picture.objects.length || "" : "…";
  });
}

let named = ""; // names that the fields propose

export function objects(session) {
  const picture = session.current;
  const change = (id, fields) => {
    session.current.change(id, fields);
    session.changed();
  };
  const make = ({ id }) => {
    const swatch = element("button", { className: "swatch", onclick: () => (session.current.select(id), session.changed()) });
    const name = element("input", { onchange: () => change(id, { name: name.value.trim() || `object ${id}` }) });
    name.onkeydown = ({ key, isComposing }) => key === "Enter" && !isComposing && $("stage").focus(); // the next keys are commands
    attributes(name, { "aria-label": "Name", list: "names" });
    const figure = element("span", { className: "figure" });
    const eye = element("button", { textContent: "◉", title: "Shown", onclick: () => change(id, { hidden: eye.ariaPressed === "true" }) });
    const remove = element("button", { textContent: "×", title: "Delete", onclick: () => (session.current.remove(id), session.changed()) });
    return element("li", {}, swatch, name, figure, eye, remove);
  };
  each($("objects"), picture?.objects ?? [], make, (item, object) => {
    const [swatch, name, figure, eye, remove] = item.children;
    const mask = chosenMask(object), selected = object === picture.object, { prompt, answered } = object;
    item.classList.toggle("selected", selected);
    swatch.style.background = object.colour;
    swatch.textContent = object.done ? "✓" : "";
    attributes(swatch, { "aria-pressed": selected, "aria-label": `Select ${object.name}${object.done ? ", accepted" : ""}` });
    if (document.activeElement !== name) name.value = object.name;
    figure.textContent = mask ? (mask.visible === false ? "–" : mask.iou.toFixed(2)) : answered === prompt ? "!" : prompt.points.length || prompt.box ? "…" : "";
    figure.title = mask ? mask.visible === false ? "Not visible on this frame" : `Predicted IoU ${mask.iou}; ${mask.area} pixels` : answered === prompt ? "The server refused these clicks" : "";
    attributes(eye, { "aria-pressed": !object.hidden, "aria-label": `Show ${object.name}` });
    remove.setAttribute("aria-label", `Delete ${object.name}`);
  });
  $("no-objects").hidden = !!picture?.objects.length;
  const names = [...new Set(session.pictures.flatMap((one) => one.objects.map(({ name }) => name)))], said = names.join("\n");
  if (named !== said) $("names").replaceChildren(...names.map((value) => element("option", { value })));
  named = said;
}

let drawn = null; // the masks that the candidates panel shows

export function candidates(session, choose) {
  const picture = session.current, object = picture?.object;
  const masks = (picture?.bitmap && !picture.video && object?.masks) || [];
  $("candidates-panel").hidden = !masks.length;
  if (drawn !== masks) {
    drawn = masks;
    $("candidates").replaceChildren(...masks.map((mask, at) => {
      const canvas = element("canvas", { width: 168, height: 126 });
      sketch(canvas, picture, { mask, masks, colour: object.colour });
      const button = element("button", { onclick: () => choose(at) }, canvas, element("span", { textContent: mask.iou.toFixed(2) }));
      button.setAttribute("aria-label", `Candidate ${at + 1}, predicted IoU ${mask.iou.toFixed(2)}`);
      return button;
    }));
  }
  [...$("candidates").children].forEach((button, at) => button.setAttribute("aria-pressed", at === object.chosen));
}

/** Draw one mask on a small view of the area around all candidates, so that all sketches show the same area. */
function sketch(canvas, picture, { mask, masks, colour }) {
  const context = canvas.getContext("2d"), view = new View();
  if (!masks.some(({ area }) => area)) masks = [{ bbox: [0, 0, picture.width, picture.height] }];
  const edges = [0, 1].map((axis) => [Math.min(...masks.map(({ bbox }) => bbox[axis])), Math.max(...masks.map(({ bbox }) => bbox[axis] + bbox[axis + 2]))]);
  const [[left, right], [top, bottom]] = edges;
  view.fit({ width: Math.max(right - left, 8) * 1.2, height: Math.max(bottom - top, 8) * 1.2 }, canvas);
  view.x = canvas.width / 2 - (left + right) / 2 * view.scale;
  view.y = canvas.height / 2 - (top + bottom) / 2 * view.scale;
  const image = context.createImageData(canvas.width, canvas.height);
  const target = { pixels: new Uint32Array(image.data.buffer), width: canvas.width, height: canvas.height };
  paint(withRuns(mask, picture), picture, view, target, { fill: pixel(colour, 0.6), edge: pixel(colour, 1), thickness: 2 });
  createImageBitmap(image).then((layer) => {
    if (!picture.bitmap) return; // another picture is shown by now
    context.drawImage(picture.bitmap, view.x, view.y, picture.width * view.scale, picture.height * view.scale);
    context.drawImage(layer, 0, 0);
  });
}

export function figures({ last }) {
  $("last").hidden = !last;
  if (!last) return;
  $("round-trip").textContent = `${last.roundTripMs.toFixed(0)} ms`;
  $("server-time").textContent = `${last.serverMs.toFixed(0)} ms`;
  $("stages").textContent = last.stages.map(([name, ms]) => `${name} ${ms.toFixed(1)}`).join(" · ");
  const shown = last.curl.replace(/("mask_input":".{12})[^"]+/, "$1…");
  if ($("curl").textContent !== shown) $("curl").textContent = shown;
}
