/** Masks as what a canvas and an SVG draw: ImageData, path strings, Path2D. All have the picture's size. */

import { pixel } from "./raster.js";
import { fill } from "./rle.js";

/**
 * The mask in one colour, all else transparent.
 * @param {Uint32Array} ends of runs, from `decodeRuns`
 * @param {import("./rle.js").Size} size
 * @param {{colour?: string, opacity?: number}} [look] "#rrggbb", and 0..1
 */
export function toImageData(ends, size, { colour = "#2f81f7", opacity = 0.5 } = {}) {
  const image = new ImageData(size.width, size.height);
  fill(new Uint32Array(image.data.buffer), ends, size, pixel(colour, opacity));
  return image;
}

/**
 * The `d` of an SVG path: outer rings run clockwise and holes the other way, so both fill rules leave holes open.
 * @param {import("./outline.js").Outline} outline
 */
export const toSvgPath = ({ polygons, holes }) => [...polygons, ...holes].map((ring) => `M${ring.join("L")}Z`).join("");
