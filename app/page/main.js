/** Starts the page: creates its parts, and connects keys, buttons and gestures to commands. */

import { apiKey } from "./api.js";
import { Canvas } from "./canvas.js";
import { filesIn } from "./dropped.js";
import { Everything } from "./everything.js";
import { EverythingView } from "./everything_view.js";
import * as exports from "./export.js";
import * as keys from "./keys.js";
import { Notice } from "./notice.js";
import * as panels from "./panels.js";
import { chosenMask } from "./picture.js";
import * as pointer from "./pointer.js";
import { addPoint, boxBetween, withBox, withThree } from "./prompts.js";
import { Requests } from "./requests.js";
import { Session } from "./session.js";
import { values } from "./storage.js";

const $ = (id) => document.getElementById(id);
const stage = $("stage");
const notice = new Notice();
const session = new Session();
const requests = new Requests(session, notice);
const canvas = new Canvas(stage, session);
const everything = new Everything(session, requests, notice);
const everythingView = new EverythingView(everything, canvas, { stage });

/** The part for videos, which is loaded when the first one comes. */
const videos = async () => (await import("./video/start.js")).start({ session, requests, notice, canvas, stage, listHelp });

/** Change the current picture, if there is one. */
function edit(change) {
  if (!session.current?.bitmap) return;
  change(session.current);
  session.changed();
}

const pixelAt = (at) => canvas.view.toPicture(at).map(Math.floor);
const within = ([x, y]) => x >= 0 && y >= 0 && x < session.current?.bitmap?.width && y < session.current.bitmap.height;

function point([x, y], label) {
  if (label && within([x, y]) && everything.take([x, y])) return;
  if (within([x, y])) edit((picture) => picture.point((prompt, mask) => addPoint(prompt, [x, y, label], session.options.refine ? mask : null)));
}

function box(from, to) {
  canvas.draft = null;
  const drawn = session.current?.bitmap && boxBetween(from, to, session.current.bitmap);
  if (drawn) edit((picture) => picture.point(() => withBox(drawn)));
}

/** Name what was found at a position of the stage; elsewhere, preview a click. */
function hover(at, label) {
  const pixel = at && within(pixelAt(at)) ? pixelAt(at) : null;
  const named = everything.hover(label ? pixel : null);
  everythingView.point(at);
  if (!named) requests.hover(pixel && [...pixel, label]);
}

const gestures = pointer.listen(stage, canvas, {
  label: () => session.options.label,
  meant: {
    point: (at, label) => point(pixelAt(at), label),
    box: (from, to) => box(canvas.view.toPicture(from), canvas.view.toPicture(to)),
    draft(from, to) {
      canvas.draft = from && [from, to].map((at) => canvas.view.toPicture(at));
      canvas.draw();
    },
    hover: (at, label) => hover(at, label),
    pan: (dx, dy) => canvas.pan(dx, dy),
    zoom: (factor, at) => canvas.zoom(factor, at),
  },
});

const toggle = (option) => () => session.set(option, !session.options[option]);

const commands = {
  undo: () => edit((picture) => picture.undo()),
  redo: () => edit((picture) => picture.redo()),
  choose: (chosen) => edit((picture) => !picture.video && picture.object?.masks?.[chosen] && picture.change(picture.selected, { chosen })),
  three: () => edit((picture) => !picture.video && picture.object && picture.change(picture.selected, { prompt: withThree(picture.object.prompt), done: false })),
  accept: () => edit((picture) => picture.object && chosenMask(picture.object) && (picture.accept(), notice.say("Accepted."))),
  begin: () => edit((picture) => picture.select(null)),
  remove: () => edit((picture) => picture.object && picture.remove(picture.selected)),
  everything: () => everything.toggle(),
  larger: () => everything.larger(),
  label: () => session.set("label", 1 - session.options.label),
  refine: toggle("refine"),
  closer: toggle("closer"),
  hover: toggle("hover"),
  zoom: (factor) => canvas.zoom(factor),
  fit: () => canvas.fit(),
  open: () => $("files").click(),
  openFrames: () => $("frames").click(),
  async sample() {
    try {
      const reply = await fetch("page/hats.jpg");
      if (!reply.ok) throw new Error(`status ${reply.status}`);
      take([new File([await reply.blob()], "hats.jpg", { type: "image/jpeg" })]);
    } catch (error) {
      notice.tell(`The sample picture cannot be loaded (${error.message}). Try again, or choose a picture of yours.`);
    }
  },
  turn: (step) => session.turn(step),
  coco: () => save("coco"),
  help: () => $("help-panel").showModal(),
  move([dx, dy], event) {
    const { bitmap } = session.current ?? {};
    if (!bitmap) return;
    const step = event.shiftKey ? 1 : Math.max(Math.round(10 * canvas.ratio / canvas.view.scale), 1);
    const [x, y] = canvas.cursor ?? [bitmap.width / 2, bitmap.height / 2];
    const held = (value, most) => Math.min(Math.max(Math.floor(value), 0), most - 1) + 0.5;
    canvas.cursor = [held(x + dx * step, bitmap.width), held(y + dy * step, bitmap.height)];
    if (canvas.draft) canvas.draft[1] = canvas.cursor;
    const pixel = canvas.cursor.map(Math.floor);
    everything.hover(pixel);
    everythingView.point(canvas.view.toScreen(canvas.cursor));
    notice.say([pixel.join(", "), ...(everything.named ? [everything.describe(everything.named)] : [])].join(": "));
    canvas.draw();
  },
  place(label, event) {
    if (canvas.cursor) point(canvas.cursor.map(Math.floor), event.shiftKey ? 0 : label);
    else commands.move([0, 0], event);
  },
  corner(_, event) {
    if (!canvas.cursor) return commands.move([0, 0], event);
    if (canvas.draft) return box(...canvas.draft);
    canvas.draft = [canvas.cursor, canvas.cursor];
    canvas.draw();
  },
  cancel() {
    if (everything.stop()) return;
    if (!canvas.draft && !canvas.cursor) everything.clear();
    if (!canvas.draft) canvas.cursor = null;
    gestures.cancel();
  },
  theme() {
    const system = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
    setTheme((document.documentElement.dataset.theme ?? system) === "dark" ? "light" : "dark");
  },
  key: () => notice.openKey(),
  async copy() {
    try {
      await navigator.clipboard.writeText(session.last.curl);
      $("copied").textContent = "Copied.";
    } catch { // allowed only for pages from https or from this machine
      getSelection().selectAllChildren($("curl"));
      $("copied").textContent = "Selected: press Ctrl+C.";
    }
    setTimeout(() => ($("copied").textContent = ""), 2000);
  },
};

async function savePictures(kind) {
  const all = $("all-pictures").checked ? session.pictures.filter(({ video }) => !video) : [session.current];
  const pictures = all.filter((picture) => picture && exports.exportable(picture).length);
  const late = all.flatMap((picture) => picture?.waiting ?? []).length;
  if (late) notice.tell(`The last clicks on ${late === 1 ? "an object" : `${late} objects`} are not exported: their masks have not come yet. Export again when they have.`);
  else if (!pictures.length) notice.tell("There is nothing to export yet: click on an object first.");
  return pictures.length ? exports[kind](pictures) : null;
}

async function save(kind) {
  let made;
  try {
    made = session.current?.video ? await (await videos()).save(kind) : await savePictures(kind);
  } catch (error) {
    return notice.tell(`Nothing is exported. ${error.message}`);
  }
  if (!made) return;
  const { name, blob } = made instanceof Blob ? { name: `${kind}.json`, blob: made } : made;
  const link = panels.element("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  notice.say(`${name} is saved.`);
}

function listHelp(rows) {
  const { element } = panels;
  $("help-rows").append(...rows.map(([key, what]) => element("div", {}, element("dt", {}, key), element("dd", {}, what))));
}

function setTheme(theme) {
  if (theme) values.set("sam2-theme", document.documentElement.dataset.theme = theme);
}

let last = null; // the current picture, when keepBitmap last looked

/** Decode the current picture, once, and release all others: a large one takes 100 MB. */
async function keepBitmap() {
  for (const picture of session.pictures)
    if (picture !== session.current) picture.release();
  const picture = session.current;
  if (picture?.id !== last?.id) gestures.cancel(); // what was begun on another picture
  if (picture !== last && picture?.unreadable) notice.tell(`${picture.name}: ${picture.problem}`);
  last = picture;
  if (!picture || picture.bitmap || picture.opening || picture.unreadable || picture.video) return;
  picture.opening = true;
  try {
    picture.bitmap = await createImageBitmap(picture.file);
  } catch {
    picture.unreadable = true;
    picture.problem ||= "This browser cannot show this file. It is damaged, or must be saved as JPEG or PNG.";
    notice.tell(`${picture.name}: ${picture.problem}`);
  }
  picture.opening = false;
  session.redraw();
}

/** `asFrames`: the pictures are the frames of one video. */
async function take(files, { asFrames = false } = {}) {
  const taken = [...files]; // the browser empties its list
  const maybeVideo = ({ name, type }) => /^(video\/|image\/gif)/.test(type) || (!type && !/\.(heic|avif)$/i.test(name));
  if (!taken.length) return;
  notice.outdate();
  document.activeElement?.blur(); // a name that is being typed belongs to the picture that is shown now
  try {
    const added = asFrames || taken.some(maybeVideo) ? await (await videos()).take(taken, { asFrames }) : session.add(taken);
    if (!added) notice.tell("There is no picture and no video among the files, such as JPEG, PNG, MP4 or WebM.");
    else if (added < taken.length) notice.tell(`${taken.length - added} of ${taken.length} files are neither pictures nor videos, and are left out.`);
  } catch (error) {
    notice.tell(`The files are not added: ${error.message}`);
  }
}

async function takeFolders(entries) {
  try {
    const files = await filesIn(entries);
    if (files.length) take(files);
    else notice.tell("There are no files in the folder.");
  } catch (error) {
    notice.tell(`The folder cannot be read: ${error.message}`);
  }
}

function render() {
  const { current: picture, options } = session;
  if (requests.model) $("model").textContent = requests.model.model;
  keepBitmap();
  panels.thumbnails(session, requests);
  panels.objects(session);
  panels.candidates(session, commands.choose);
  panels.figures(session);
  everythingView.render();
  $("welcome").hidden = !!picture;
  $("key-button").hidden = !apiKey.get();
  const sending = picture && !picture.problem && (!picture.imageId || picture.looking);
  $("progress").hidden = !sending;
  if (sending) {
    const sent = !picture.looking && picture.progress < 1;
    $("progress-text").textContent = picture.state ?? (sent ? "Uploading" : picture.looking ? "Looking closer" : "Embedding");
    $("bar").toggleAttribute("value", sent);
    if (sent) $("bar").value = picture.progress;
  }
  const disable = { undo: !picture?.undoable, redo: !picture?.redoable, accept: !picture?.object?.masks, three: !picture?.object?.prompt.points.length, closer: !options.refine || !!picture?.video };
  for (const [name, disabled] of Object.entries(disable)) $(name).disabled = disabled;
  for (const name of ["refine", "closer", "hover"]) $(name).setAttribute("aria-pressed", options[name]);
  for (const button of document.querySelectorAll("[data-label]")) button.setAttribute("aria-pressed", +button.dataset.label === options.label);
}

setTheme(values.get("sam2-theme"));
for (const button of document.querySelectorAll("[data-command]")) {
  const { command, argument } = button.dataset;
  button.onclick = (event) => commands[command](argument && JSON.parse(argument), event);
}
for (const button of document.querySelectorAll("[data-save]")) button.onclick = () => save(button.dataset.save);
for (const button of document.querySelectorAll("[data-label]")) button.onclick = () => session.set("label", +button.dataset.label);
listHelp(keys.helpRows());
keys.listen(stage, commands);

for (const [id, asFrames] of [["files", false], ["frames", true]])
  $(id).onchange = ({ target }) => {
    take(target.files, { asFrames });
    target.value = "";
  };
addEventListener("paste", (event) => take(event.clipboardData.files));
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  const { files, items } = event.dataTransfer, entries = [...items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (entries.some((entry) => entry.isDirectory)) takeFolders(entries);
  else if (files.length) take(files);
  else notice.tell("What was dropped is no file. Copy the picture and paste it here, or save it first.");
});

session.addEventListener("change", render);
await session.open(notice);
if (session.pictures.some(({ video }) => video)) videos();
await requests.describe().catch(({ message }) => notice.tell(message));
session.redraw();
