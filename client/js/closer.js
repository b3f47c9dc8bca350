/**
 * A closer look: the part of a picture around a small object is embedded as a picture of its own, so that the model sees it larger.
 * Clicks, boxes and masks stay those of the whole picture. Loaded with the first closer look.
 *
 * The part is cut out by the browser and sent as PNG, over white and without the colour profile, as the server reads pictures: the
 * same pixels, but for a shade where they are half transparent. Refused: PNG with 16 bits, which the server scales by its values,
 * and what the browser cannot read (TIFF; HEIC outside Safari) or turns another way. AVIF with more than 8 bits is as the browser
 * reads it. A browser that guards against fingerprinting may alter the pixels.
 */

import { unexpectedReply } from "./errors.js";
import { Mask } from "./masks.js";
import { Picture } from "./pictures.js";
import { promptFields } from "./prompts.js";
import { decodeRuns } from "./rle.js";
import { encodeRuns, movedRuns } from "./runs.js";

/**
 * @import { CallOptions, Client } from "./client.js"
 * @import { Embedded, Source } from "./pictures.js"
 * @import { Prompt, Rle } from "./prompts.js"
 * @import { Size } from "./rle.js"
 */

/** @typedef {[number, number, number, number]} Box x0, y0, x1, y1 */

const LEAST_SIDE_PX = 64; // of a part: below, there is nothing more to see
const MOST_SHARE = 0.6; // of the picture's area: a larger part shows little more than the whole picture

class Part extends Picture {
  #whole;
  #region;

  /**
   * @param {Client} client
   * @param {Embedded} embedded
   * @param {() => Promise<Embedded>} embed
   * @param {{whole: Picture, region: Box}} of
   */
  constructor(client, embedded, embed, { whole, region }) {
    super(client, { image_id: embedded.image_id, width: whole.width, height: whole.height }, embed);
    if (embedded.width !== widthOf(region) || embedded.height !== heightOf(region)) throw unexpectedReply("The part of the picture");
    this.#whole = whole;
    this.#region = region;
  }

  get region() {
    return this.#region;
  }

  /**
   * @param {Mask | Box} what
   * @param {{margin?: number} & CallOptions} [options]
   */
  closer(what, options) {
    return this.#whole.closer(what, options);
  }

  /** @param {Prompt} prompt */
  fieldsOf(prompt) {
    const fields = /** @type {any} */ (promptFields(prompt, this.#region));
    if (fields.point_coords) fields.point_coords = fields.point_coords.map((/** @type {number[]} */ point) => this.#moved(point, "A click"));
    if (fields.box) fields.box = [0, 2].flatMap((at) => this.#moved(fields.box.slice(at, at + 2), "A corner of the box"));
    if (fields.mask_input?.size) fields.mask_input = this.#cut(fields.mask_input);
    return fields;
  }

  /**
   * @param {any} answer
   * @param {number} prompts
   */
  masksOf(answer, prompts) {
    return super.masksOf(answer, prompts).map((masks) => masks.map((mask) => this.#placed(mask)));
  }

  /**
   * @param {number[]} point of the whole picture
   * @param {string} what
   */
  #moved([x, y], what) {
    const region = this.#region, [x0, y0, x1, y1] = region;
    if (x >= x0 && y >= y0 && x <= x1 && y <= y1) return [x - x0, y - y0];
    throw new RangeError(`${what} at (${x}, ${y}) is outside the part that is looked at, x ${x0}..${x1}, y ${y0}..${y1}: ` +
      "decode it on the whole picture, or look closer at more of it.");
  }

  /** @param {Rle} rle of the whole picture */
  #cut({ size: [height, width], counts }) {
    if (height !== this.height || width !== this.width) throw new RangeError(ofAnotherSize({ width, height }, this));
    const [x0, y0] = this.#region, size = sizeOf(this.#region);
    const ends = movedRuns(decodeRuns(counts, width * height), height, [-x0, -y0], size);
    return { size: [size.height, size.width], counts: encodeRuns(ends) };
  }

  /** @param {Mask} mask of the part */
  #placed({ ends, size, area, bbox: [x, y, width, height], iou, stability, logits }) {
    const [x0, y0] = this.#region;
    return new Mask({
      rle: { size: [this.height, this.width], counts: encodeRuns(movedRuns(ends, size.height, [x0, y0], this)) },
      bbox: area ? [x + x0, y + y0, width, height] : [0, 0, 0, 0],
      iou, stability, area, logits: logits ?? undefined, region: this.#region,
    });
  }
}

/**
 * See Picture.closer.
 * @param {Client} client
 * @param {Picture} whole
 * @param {Source | undefined} source
 * @param {Mask | Box} what
 * @param {{margin?: number} & CallOptions} [options]
 * @returns {Promise<Picture>}
 */
export async function lookCloser(client, whole, source, what, { margin = 1.6, ...options } = {}) {
  if (!(margin >= 1 && margin < Infinity)) throw new RangeError(`margin is ${margin}, but must be a finite number, 1 or more.`);
  if (!source) throw new Error("The picture is known here by its id alone, so no part of it can be cut out: embed its file again.");
  if ((source.stretch ?? "range") !== "range")
    throw new Error(`The picture was embedded with stretch "${source.stretch}", which only the server can do: embed it in 8 bits.`);
  const region = squareAround(boxOf(what, whole), margin, whole);
  if (!region) return whole;
  /** @type {Blob | null} */
  let png = null;
  const send = (/** @type {CallOptions} */ call) => client.call(async (signal) => {
    png ??= await cut(source.file, region, whole);
    return client.send("embed", png, { signal });
  }, call);
  return new Part(client, await send(options), () => send({}), { whole, region });
}

/**
 * A square around all of a box, with `margin` times its longer side; cut where the picture is shorter, and near its edge moved inside. Null
 * where it would be nearly all of the picture.
 * @param {Box} box
 * @param {number} margin
 * @param {Size} whole
 * @returns {Box | null} of whole pixels
 */
export function squareAround(box, margin, { width, height }) {
  const [x0, y0] = box.map(Math.floor), [, , x1, y1] = box.map(Math.ceil);
  const side = Math.round(Math.max(margin * Math.max(x1 - x0, y1 - y0), LEAST_SIDE_PX));
  const [across, down] = [Math.min(side, width), Math.min(side, height)];
  if (across * down > MOST_SHARE * width * height) return null;
  const inside = (/** @type {number} */ start, /** @type {number} */ most) => Math.min(Math.max(Math.round(start), 0), most);
  const left = inside((x0 + x1 - across) / 2, width - across), top = inside((y0 + y1 - down) / 2, height - down);
  return [left, top, left + across, top + down];
}

const widthOf = (/** @type {Box} */ [x0, , x1]) => x1 - x0;
const heightOf = (/** @type {Box} */ [, y0, , y1]) => y1 - y0;
const sizeOf = (/** @type {Box} */ region) => ({ width: widthOf(region), height: heightOf(region) });

/**
 * @param {Size} one
 * @param {Size} whole
 */
const ofAnotherSize = (one, whole) =>
  `The mask has ${one.width} x ${one.height} pixels, but the picture has ${whole.width} x ${whole.height}.`;

/**
 * What is to be seen, within the picture.
 * @param {Mask | Box} what
 * @param {Size} whole
 * @returns {Box}
 */
function boxOf(what, whole) {
  if (what instanceof Mask) {
    if (what.size.width !== whole.width || what.size.height !== whole.height) throw new RangeError(ofAnotherSize(what.size, whole));
    if (!what.area) throw new RangeError("The mask is empty: there is nothing to look at.");
    const [x, y, width, height] = what.bbox;
    return [x, y, x + width, y + height];
  }
  const [x0, y0, x1, y1] = Array.isArray(what) && what.length === 4 ? what : [NaN, NaN, NaN, NaN];
  if (![x0, y0, x1, y1].every(Number.isFinite) || x0 >= x1 || y0 >= y1)
    throw new RangeError(`The box is ${JSON.stringify(what)}, but must be [x0, y0, x1, y1] with x0 < x1 and y0 < y1.`);
  if (x1 <= 0 || y1 <= 0 || x0 >= whole.width || y0 >= whole.height)
    throw new RangeError(`The box ${JSON.stringify(what)} is outside the picture of ${whole.width} x ${whole.height} pixels.`);
  return [Math.max(x0, 0), Math.max(y0, 0), Math.min(x1, whole.width), Math.min(y1, whole.height)];
}

/**
 * A part of a picture as the server sees it: turned as EXIF says, over white, without its colour profile.
 * @param {Blob} file
 * @param {Box} region
 * @param {Size} whole
 */
async function cut(file, region, { width, height }) {
  const [, P, N, G, ...head] = new Uint8Array(await file.slice(0, 25).arrayBuffer());
  if (String.fromCharCode(P, N, G) === "PNG" && head.at(-1) === 16)
    throw new Error("The picture has 16 bits a channel, which the server scales in its own way: embed it in 8 bits.");
  const bitmap = await readable(file);
  try {
    if (bitmap.width !== width || bitmap.height !== height)
      throw new Error(`The picture has ${bitmap.width} x ${bitmap.height} pixels here, and ${width} x ${height} for the server, ` +
        "which reads this file in another way: embed it as PNG.");
    const canvas = new OffscreenCanvas(widthOf(region), heightOf(region));
    const context = /** @type {OffscreenCanvasRenderingContext2D} */ (canvas.getContext("2d", { alpha: false }));
    context.fillStyle = "#fff";
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.drawImage(bitmap, -region[0], -region[1]);
    return await canvas.convertToBlob({ type: "image/png" });
  } finally {
    bitmap.close();
  }
}

/** @param {Blob} file */
async function readable(file) {
  try {
    return await createImageBitmap(file, { colorSpaceConversion: "none" });
  } catch (cause) {
    throw new Error("The picture cannot be read here, so no part of it can be cut out: embed it as JPEG or PNG.", { cause });
  }
}
