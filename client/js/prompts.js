/** Prompts, and the fields of /decode that they become. Does not know about the network. */

import { unexpectedReply } from "./errors.js";
import { Mask } from "./masks.js";

/** @typedef {import("./masks.js").Rle} Rle */

/**
 * @typedef {object} Prompt what is asked for: at least one of points, box and mask
 * @property {[number, number][]} [points] x, y in pixels of the picture
 * @property {number[]} [labels] 1: on the object, 0: not on it; all 1 if left out
 * @property {[number, number, number, number]} [box] x0, y0, x1, y1
 * @property {Mask | Rle | string} [mask] to refine: a mask of an earlier reply, its logits, or an RLE
 * @property {boolean} [multimask] three masks or one; if left out, a lone click gets three
 */

/**
 * @typedef {object} MaskOptions
 * @property {boolean} [logits] whether the masks bring what refines them; true if left out
 * @property {number} [maxHoleArea] fill holes of at most this many pixels of the logits
 * @property {number} [maxSprinkleArea] remove specks of at most this many
 */

/**
 * The fields of a prompt, with SAM2ImagePredictor's names.
 * @param {Prompt} prompt
 * @param {[number, number, number, number] | null} [region]
 */
export function promptFields({ points, labels, box, mask, multimask }, region = null) {
  return {
    ...(points?.length && { point_coords: points, point_labels: labels ?? points.map(() => 1) }),
    ...(box && { box }),
    // A mask without logits, or with those of another part, is worth its pixels.
    ...(mask && { mask_input: mask instanceof Mask ? String(mask.region) === String(region) && mask.logits || mask.rle : mask }),
    ...(multimask !== undefined && { multimask_output: multimask }),
  };
}

/** @param {MaskOptions} options */
export function maskFields({ logits = true, maxHoleArea, maxSprinkleArea }) {
  return {
    return_logits: logits,
    ...(maxHoleArea !== undefined && { max_hole_area: maxHoleArea }),
    ...(maxSprinkleArea !== undefined && { max_sprinkle_area: maxSprinkleArea }),
  };
}

/**
 * The masks of each prompt, best predicted IoU first.
 * @param {any} answer
 * @param {number} prompts how many there were
 * @returns {Mask[][]}
 */
export function masksOf({ predictions }, prompts) {
  try {
    if (predictions.length === prompts)
      return predictions.map((/** @type {any} */ { masks }) => masks.map((/** @type {any} */ mask) => new Mask(mask)));
  } catch {}
  throw unexpectedReply("The masks");
}
