/** Exports pictures with their objects to files for other programs. Does not know about the page. */

import { png, zip } from "./files.js";
import { outline } from "./outline.js";
import { chosenMask, withRuns } from "./picture.js";
import { toBitmap } from "./rle.js";

const withMasks = (picture) => picture.objects.filter(chosenMask);
const json = (value) => new Blob([JSON.stringify(value, null, 1)], { type: "application/json" });
const bitmapOf = (object, picture) => toBitmap(withRuns(chosenMask(object), picture).ends, picture);

/** COCO's format, with a category for each name, and masks as compressed RLE. https://cocodataset.org/#format-data */
export function coco(pictures) {
  const names = [...new Set(pictures.flatMap(withMasks).map(({ name }) => name))];
  const annotations = pictures.flatMap((picture, at) => withMasks(picture).map((object) => {
    const { counts, area, bbox, iou } = chosenMask(object);
    const segmentation = { size: [picture.height, picture.width], counts };
    return { image_id: at + 1, category_id: names.indexOf(object.name) + 1, segmentation, area, bbox, iscrowd: 0, predicted_iou: iou };
  }));
  return json({
    info: { description: "Made with SAM 2" },
    images: pictures.map(({ name, width, height }, at) => ({ id: at + 1, file_name: name, width, height })),
    annotations: annotations.map((annotation, at) => ({ id: at + 1, ...annotation })),
    categories: names.map((name, at) => ({ id: at + 1, name, supercategory: "" })),
  });
}

/** Rings of [x, y] for each picture and object, with outer rings and holes in separate lists. */
export const polygons = (pictures) => json(pictures.map((picture) => ({
  file_name: picture.name,
  width: picture.width,
  height: picture.height,
  objects: withMasks(picture).map((object) => ({ name: object.name, ...outline(bitmapOf(object, picture), picture) })),
})));

/** A PNG, or a ZIP if there are several. Returns {name, blob}. */
export async function masks(pictures) {
  const files = [];
  for (const picture of pictures)
    for (const object of withMasks(picture)) {
      const base = `${picture.name.replace(/\.\w+$/, "")}-${object.name}`.replace(/[^\p{L}\p{N}._-]+/gu, "-");
      const same = files.filter(({ stem }) => stem === base).length;
      const name = `${base}${same ? `-${same + 1}` : ""}.png`;
      files.push({ stem: base, name, bytes: await png(bitmapOf(object, picture), picture) });
    }
  if (files.length === 1) return { name: files[0].name, blob: new Blob([files[0].bytes], { type: "image/png" }) };
  return { name: "masks.zip", blob: zip(files) };
}
