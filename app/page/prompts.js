/** Prompts as immutable values, and the requests for them. Does not know about the network. */

import { Mask } from "../client/masks.js";

export const EMPTY = Object.freeze({ points: [], box: null, previous: null, three: false });

/** Points are [x, y, label]; label 1: object, 0: background. `previous`: the mask to refine, or null; once its logits. */
export const addPoint = (prompt, point, previous) =>
  Object.freeze({ ...prompt, points: [...prompt.points, point], previous, three: false });

/** A box starts over: earlier clicks were for another idea of the object. */
export const withBox = (box) => Object.freeze({ ...EMPTY, box });

export const withThree = (prompt) => Object.freeze({ ...prompt, three: true });

export const isEmpty = (prompt) => !prompt.points.length && !prompt.box;

/** The prompt as the client takes it, on a picture {width, height}. */
export const asked = ({ points, box, previous, three }, { width, height }) => ({
  points: points.map(([x, y]) => [x, y]),
  labels: points.map(([, , label]) => label),
  box,
  mask: previous?.bbox ? new Mask({ ...previous, rle: { size: [height, width], counts: previous.counts } }) : previous,
  multimask: three || undefined,
});

/** A box of whole pixels within the picture, from two corners in any order; null if it has no area. */
export function boxBetween([ax, ay], [bx, by], { width, height }) {
  const inside = (value, most) => Math.min(Math.max(Math.round(value), 0), most);
  const [x0, x1] = [inside(Math.min(ax, bx), width), inside(Math.max(ax, bx), width)];
  const [y0, y1] = [inside(Math.min(ay, by), height), inside(Math.max(ay, by), height)];
  return x0 < x1 && y0 < y1 ? [x0, y0, x1, y1] : null;
}

/** The curl command that sends a body: a long one from standard input, as command lines are limited. */
export function curl(url, body, { withKey }) {
  const key = withKey ? ` -H "X-API-Key: $SAM2_API_KEY"` : "";
  const json = JSON.stringify(body);
  return json.length < 4000 ? `curl ${url}${key} -d '${json}'` : `curl ${url}${key} -d @- <<'END'\n${json}\nEND`;
}

/** The curl command that uploads a picture file. */
export function curlUpload(url, { name, type }, { withKey }) {
  const key = withKey ? ` -H "X-API-Key: $SAM2_API_KEY"` : "";
  const file = `@${name}`.replaceAll("'", `'\\''`);
  return `curl ${url}${key} -H 'Content-Type: ${type}' --data-binary '${file}'`;
}
