/** The JavaScript client of the SAM 2 service: all that a web tool imports. */

export { Client } from "./client.js";
export { Connection } from "./connection.js";
export { toImageData, toSvgPath } from "./drawing.js";
export { ApiError } from "./errors.js";
export { Hover } from "./hover.js";
export { Mask } from "./masks.js";
export { joined, outline } from "./outline.js";
export { Picture } from "./pictures.js";
export { paint, pixel } from "./raster.js";
export { decodeRuns, toBitmap } from "./rle.js";
export { Track } from "./tracks.js";
export { Video } from "./videos.js";

/**
 * @typedef {import("./client.js").CallOptions} CallOptions
 * @typedef {import("./client.js").EmbedOptions} EmbedOptions
 * @typedef {import("./masks.js").Rle} Rle
 * @typedef {import("./masks.js").WireMask} WireMask
 * @typedef {import("./outline.js").Outline} Outline
 * @typedef {import("./prompts.js").MaskOptions} MaskOptions
 * @typedef {import("./prompts.js").Prompt} Prompt
 * @typedef {import("./tracks.js").TrackedFrame} TrackedFrame
 * @typedef {import("./tracks.js").TrackedObject} TrackedObject
 * @typedef {import("./tracks.js").TrackOptions} TrackOptions
 * @typedef {import("./videos.js").VideoOptions} VideoOptions
 */
