/** Shows everything that was found: the layer over the picture, the panel, the label at the pointer, the progress. */

import { colourLabels, layLabels } from "./label_map.js";
import { pixel } from "../client/raster.js";

const $ = (id) => document.getElementById(id);

const HINT = "Click: take the object · W: the next larger one · right click, drag: as always · Escape: clear";

export class EverythingView {
  #hint = $("hint").textContent;
  #context = $("found").getContext("2d");
  #labels = new Uint16Array(0);
  #found = null; // what the labels show
  #laid = ""; // and where
  #coloured = ""; // what the canvas shows
  #pointer = null; // the place of the label: device pixels of the stage

  constructor(everything, canvas, { stage }) {
    Object.assign(this, { everything, canvas, stage });
    canvas.drawUnder = () => this.#draw();
    $("threshold").oninput = ({ target }) => everything.filter(+target.value);
    $("take-all").onclick = () => everything.takeAll();
    for (const id of ["stop", "clear"]) $(id).onclick = () => everything[id]();
  }

  /** Place the label with the name. `at`: device pixels of the stage. */
  point(at) {
    this.#pointer = at;
    this.#label();
  }

  render() {
    const { everything } = this, { found } = everything;
    this.#show("search", everything.searching);
    $("search-bar").value = everything.progress;
    $("search-text").textContent = `Looking for every object: ${Math.round(100 * everything.progress)} %`;
    const { current } = everything.session;
    $("everything").disabled = !current || !!current.problem || !!current.video;
    $("everything").setAttribute("aria-pressed", everything.searching || !!found);
    this.#show("everything-panel", !!found);
    this.#label();
    $("hint").textContent = found ? HINT : current?.hint ?? this.#hint;
    if (!found) return;
    const { length } = found.visible;
    Object.assign($("threshold"), { min: found.least, value: found.threshold });
    $("threshold-value").textContent = found.threshold.toFixed(2);
    $("found-count").textContent = length === found.masks.length ? `${length}` : `${length} of ${found.masks.length}`;
    $("take-all").disabled = found.visible.every((mask) => everything.objectOf(mask));
  }

  /** Show or hide a part. If it had the focus, the button that opens it gets it. */
  #show(id, shown) {
    if (!shown && $(id).contains(document.activeElement)) $("everything").focus();
    $(id).hidden = !shown;
  }

  #label() {
    const { named, found } = this.everything, at = this.#pointer;
    $("named").hidden = !named || !at || !found;
    if ($("named").hidden) return;
    $("named-name").textContent = this.everything.nameOf(named);
    const share = +(100 * named.area / (found.width * found.height)).toPrecision(2);
    $("named-scores").textContent = `IoU ${named.iou.toFixed(2)} · stability ${named.stability.toFixed(2)} · ${share} %`;
    $("named-swatch").style.background = named.colour;
    const [x, y] = at.map((value) => value / this.canvas.ratio);
    const { offsetWidth: width, offsetHeight: height } = $("named"), room = this.stage.getBoundingClientRect();
    $("named").style.left = `${Math.max(x + 16 + width > room.width ? x - 12 - width : x + 16, 0)}px`;
    $("named").style.top = `${Math.max(y + 20 + height > room.height ? y - 12 - height : y + 20, 0)}px`;
  }

  #draw() {
    const { canvas, everything } = this, { found } = everything, { screen, view } = canvas;
    const { width, height } = screen, picture = everything.session.current;
    const element = this.#context.canvas;
    if (!found || !picture?.bitmap) {
      if (this.#coloured) this.#context.clearRect(0, 0, element.width, element.height);
      this.#coloured = this.#laid = "";
      return;
    }
    const key = JSON.stringify([found.threshold, view.x, view.y, view.scale, width, height]);
    if (found !== this.#found || key !== this.#laid) {
      if (this.#labels.length !== width * height) this.#labels = new Uint16Array(width * height);
      layLabels(this.#labels, found.visible.map((mask) => ({ ...found.runs(mask), label: mask.label })), found, view, screen);
      [this.#found, this.#laid, this.#coloured] = [found, key, ""];
    }
    const taken = found.masks.filter((mask) => everything.objectOf(mask)).map(({ label }) => label);
    const colours = `${key} ${taken}`;
    if (colours === this.#coloured) return;
    this.#coloured = colours;
    if (element.width !== width || element.height !== height) Object.assign(element, { width, height });
    const fills = new Uint32Array(found.masks.length + 1), edges = new Uint32Array(found.masks.length + 1);
    for (const { label, colour } of found.masks) [fills[label], edges[label]] = [pixel(colour, 0.45), pixel(colour, 1)];
    for (const label of taken) fills[label] = edges[label] = 0; // the list's own mask is drawn there
    const image = this.#context.createImageData(width, height);
    colourLabels(new Uint32Array(image.data.buffer), this.#labels, screen, { fills, edges, thickness: Math.ceil(this.canvas.ratio) });
    this.#context.putImageData(image, 0, 0);
  }
}
