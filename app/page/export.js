/** Exports pictures with their objects to files for other programs. Does not know about the page. */

import { png, zip } from "./files.js";
import { joined, outline } from "../client/outline.js";
import { chosenMask, withRuns } from "./picture.js";
import { toBitmap } from "../client/rle.js";

const MADE_WITH = "Made with SAM 2";
const LONGEST_NAME = 200; // bytes of 255: a number and a suffix may follow

/** The objects of a picture whose mask has a pixel. */
export const exportable = ({ objects }) => objects.filter((object) => chosenMask(object)?.area);

const json = (value) => new Blob([JSON.stringify(value, null, 1)], { type: "application/json" });
const bitmapOf = (object, picture) => toBitmap(withRuns(chosenMask(object), picture).ends, picture);
const categoriesOf = (pictures) => [...new Set(pictures.flatMap(exportable).map(({ name }) => name))];

/** A file name for each picture, each once: the second of one name, as from another folder, gets a number. */
function fileNames(pictures) {
  const taken = new Set(pictures.map(({ name }) => name)), free = new Set(taken);
  return pictures.map(({ name }) => {
    let own = name;
    if (!free.delete(name)) for (let number = 2; taken.has(own); number++) own = name.replace(/(\.\w+)?$/, `-${number}$1`);
    taken.add(own);
    return own;
  });
}

/** COCO's format, with a category for each name, and masks as compressed RLE. https://cocodataset.org/#format-data */
export function coco(pictures) {
  const names = categoriesOf(pictures), files = fileNames(pictures), now = new Date();
  const annotations = pictures.flatMap((picture, at) => exportable(picture).map((object) => {
    const { counts, area, bbox, iou } = chosenMask(object);
    const segmentation = { size: [picture.height, picture.width], counts };
    return { image_id: at + 1, category_id: names.indexOf(object.name) + 1, segmentation, area, bbox, iscrowd: 0, score: iou };
  }));
  const info = { description: MADE_WITH, url: "", version: "1.0", year: now.getFullYear(), contributor: "", date_created: now.toISOString() };
  const unknown = { license: 0, flickr_url: "", coco_url: "", date_captured: "" };
  return json({
    info,
    licenses: [{ id: 0, name: "", url: "" }],
    images: pictures.map(({ width, height }, at) => ({ id: at + 1, file_name: files[at], width, height, ...unknown })),
    annotations: annotations.map((annotation, at) => ({ id: at + 1, ...annotation })),
    categories: names.map((name, at) => ({ id: at + 1, name, supercategory: "" })),
  });
}

/** Rings of [x, y] for each picture and object, with outer rings and holes in separate lists. */
export const polygons = (pictures, files = fileNames(pictures)) => json(pictures.map((picture, at) => ({
  file_name: files[at],
  width: picture.width,
  height: picture.height,
  objects: exportable(picture).map((object) => ({ name: object.name, ...outline(bitmapOf(object, picture), picture) })),
})));

/** A PNG, or a ZIP if there are several. Returns {name, blob}. */
export async function masks(pictures) {
  const files = [], names = new Names();
  for (const picture of pictures)
    for (const object of exportable(picture)) {
      const name = names.take(`${stem(picture.name)}-${object.name}`, ".png");
      files.push({ name, bytes: await png(bitmapOf(object, picture), picture) });
    }
  if (files.length === 1) return { name: files[0].name, blob: new Blob([files[0].bytes], { type: "image/png" }) };
  return { name: "masks.zip", blob: zip(files) };
}

/**
 * A data set for Ultralytics' YOLO: the pictures, a label file for each, and data.yaml. An object is one line, which has
 * one ring: its parts and holes are joined. https://docs.ultralytics.com/datasets/segment/ Returns {name, blob}.
 */
export async function yolo(pictures) {
  const categories = categoriesOf(pictures), files = [], names = new Names();
  for (const picture of pictures) {
    const name = names.take(stem(picture.name)); // that of the label too; YOLO reads no .jfif
    const lines = exportable(picture).map((object) => {
      const { polygons, holes } = outline(bitmapOf(object, picture), picture);
      const points = joined([...polygons, ...holes]).flatMap(([x, y]) => [x / picture.width, y / picture.height]);
      return [categories.indexOf(object.name), ...points.map((value) => +value.toFixed(6))].join(" ");
    });
    const suffix = picture.file.type === "image/jpeg" ? ".jpg" : picture.name.match(/\.\w+$/)?.[0] ?? "";
    files.push({ name: `images/train/${name}${suffix}`, bytes: new Uint8Array(await picture.file.arrayBuffer()) });
    files.push({ name: `labels/train/${name}.txt`, bytes: new TextEncoder().encode(`${lines.join("\n")}\n`) });
  }
  const yaml = [
    `# ${MADE_WITH}. Name other pictures in val to validate on what was not trained on.`,
    "train: images/train",
    "val: images/train",
    "names:",
    ...categories.map((name, at) => `  ${at}: ${JSON.stringify(name)}`), // a JSON string is a YAML string
  ];
  files.push({ name: "data.yaml", bytes: new TextEncoder().encode(`${yaml.join("\n")}\n`) });
  return { name: "yolo.zip", blob: zip(files) };
}

const stem = (name) => name.replace(/\.\w+$/, "");

/** Gives out file names, each once, also where neither case nor the form of accents counts. */
class Names {
  #taken = new Set();

  take(wanted, suffix = "") {
    let base = wanted.normalize("NFC").replace(/[^\p{L}\p{M}\p{N}._-]+/gu, "-");
    while (new TextEncoder().encode(base).length > LONGEST_NAME) base = [...base].slice(0, -1).join("");
    for (let number = 1; ; number++) {
      const name = number === 1 ? base : `${base}-${number}`;
      const key = name.toUpperCase().toLowerCase(); // "ß" and "SS" are one name to some file systems
      if (this.#taken.has(key)) continue;
      this.#taken.add(key);
      return name + suffix;
    }
  }
}
