/** One mask of a reply, in the forms that web tools draw and store. Does not know about requests. */

import { toImageData, toSvgPath } from "./drawing.js";
import { outline } from "./outline.js";
import { decodeRuns, toBitmap } from "./rle.js";

/** @typedef {{size: [number, number], counts: string}} Rle COCO's, with height first */

/**
 * @typedef {object} WireMask a mask as the server writes it
 * @property {Rle} rle
 * @property {number} iou
 * @property {number} stability
 * @property {number} area
 * @property {[number, number, number, number]} bbox
 * @property {string} [logits]
 * @property {[number, number, number, number] | null} [region]
 */

export class Mask {
  /** @type {Uint32Array | null} */
  #ends = null;

  /** @param {WireMask} wire */
  constructor({ rle, iou, stability, area, bbox, logits, region = null }) {
    /** COCO's compressed RLE, as pycocotools reads it. */
    this.rle = rle;
    /** The model's own estimate of the mask's IoU, 0..1. */
    this.iou = iou;
    /** IoU of the mask thresholded at +1 and at -1 of its logits. */
    this.stability = stability;
    /** Pixels of the mask. */
    this.area = area;
    /** x, y, width, height; four zeros for an empty mask. */
    this.bbox = bbox;
    /** What refines this mask, if the request asked for it. */
    this.logits = logits ?? null;
    /** The part of the picture in which it was decoded; null: the whole. */
    this.region = region;
    const [height, width] = rle.size;
    /** Of the picture, in pixels. */
    this.size = { width, height };
  }

  /** The end of each run, counted column by column: what `paint` draws. Decoded once. */
  get ends() {
    return (this.#ends ??= decodeRuns(this.rle.counts, this.size.width * this.size.height));
  }

  /** Bytes of 0 and 1, row by row. */
  toBitmap() {
    return toBitmap(this.ends, this.size);
  }

  /**
   * The mask in one colour, all else transparent, at the picture's size.
   * @param {{colour?: string, opacity?: number}} [look] "#rrggbb", and 0..1
   */
  toImageData(look) {
    return toImageData(this.ends, this.size, look);
  }

  /**
   * Rings of [x, y]: outer ones in `polygons`, inner ones in `holes`. Smoothed by up to a pixel, unless told otherwise.
   * @param {{smooth?: boolean}} [options]
   */
  toOutline(options) {
    return outline(this.toBitmap(), this.size, options);
  }

  /**
   * The `d` of an SVG path, for any fill rule.
   * @param {{smooth?: boolean}} [options]
   */
  toSvgPath(options) {
    return toSvgPath(this.toOutline(options));
  }

  /**
   * A path for canvas: `context.fill(path)`, `context.isPointInPath(path, x, y)`.
   * @param {{smooth?: boolean}} [options]
   */
  toPath2D(options) {
    return new Path2D(this.toSvgPath(options));
  }
}
