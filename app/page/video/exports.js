/** Exports a video with its objects: COCO, PNG files, an overlay. Does not know about the page. */

import { png, zip } from "../files.js";
import { withRuns } from "../picture.js";
import { toBitmap } from "../../client/rle.js";
import { recordOverlay } from "./overlay.js";

const stem = (name) => name.replace(/\.\w+$/, "");
const safe = (name) => name.normalize("NFC").replace(/[^\p{L}\p{M}\p{N}._-]+/gu, "-").slice(0, 60) || "object";
const numbered = (frame) => String(frame).padStart(6, "0");
const fileOf = (video, frame) => (video.sequence ? video.file[frame].name : `${stem(video.name)}/${numbered(frame)}.jpg`);

/** Frames with a mask, in order. */
const framesOf = ({ tracked }) => [...new Set(tracked.flatMap(({ masks }) => [...masks.keys()]))].sort((one, other) => one - other);

/** Export as "coco", "masks" or "overlay". Returns {name, blob}, or throws AbortError if the user stops it. */
export async function exportVideo(kind, video, { notice, timeline }) {
  if (!framesOf(video).length) return void notice.tell("There is nothing to export yet: click on an object first.");
  return { coco, masks, overlay: recordOverlay }[kind](video, { timeline });
}

/** COCO with videos, in the words of `sam2 track` and TAO: https://github.com/TAO-Dataset/tao/blob/master/docs/annotations.md */
function coco(video) {
  const { name, width, height, fps, times, tracked } = video, frames = framesOf(video), now = new Date();
  const names = [...new Set(tracked.map((object) => object.name))], category = (object) => names.indexOf(object.name) + 1;
  const annotations = frames.flatMap((frame, at) => tracked.flatMap((object) => {
    const mask = object.masks.get(frame);
    if (!mask?.area || !mask.visible) return [];
    const { counts, area, bbox, iou: score, stability, score: object_score } = mask, segmentation = { size: [height, width], counts };
    return [{ image_id: at + 1, video_id: 1, track_id: object.id, category_id: category(object), segmentation, area, bbox, iscrowd: 0, score, stability, object_score }];
  }));
  const written = {
    info: { description: "Made with SAM 2", url: "", version: "1.0", year: now.getFullYear(), contributor: "", date_created: now.toISOString() },
    licenses: [{ id: 0, name: "", url: "" }],
    videos: [{ id: 1, name, width, height, length: video.frames, fps }],
    images: frames.map((frame, at) => ({
      id: at + 1, file_name: fileOf(video, frame), width, height, video_id: 1, frame_index: frame,
      time_s: video.sequence ? undefined : times[frame],
      license: 0, flickr_url: "", coco_url: "", date_captured: "",
    })),
    tracks: tracked.map((object) => ({ id: object.id, video_id: 1, category_id: category(object), name: object.name })),
    annotations: annotations.map((annotation, at) => ({ id: at + 1, ...annotation })),
    categories: names.map((each, at) => ({ id: at + 1, name: each, supercategory: "" })),
  };
  return { name: "coco.json", blob: new Blob([JSON.stringify(written, null, 1)], { type: "application/json" }) };
}

/** A PNG for each object and tracked frame, black where the object is not visible: object/000012.png, frames from 0. */
async function masks(video, { timeline }) {
  const abort = new AbortController(), files = [];
  const work = timeline.begin("Writing PNG", () => abort.abort());
  const all = video.tracked.flatMap((object) => [...object.masks].sort(([one], [other]) => one - other).map((found) => ({ object, found })));
  try {
    for (const { object, found: [frame, mask] } of all) {
      abort.signal.throwIfAborted();
      const bitmap = mask.visible ? toBitmap(withRuns(mask, video).ends, video) : new Uint8Array(video.width * video.height);
      files.push({ name: `${object.id}-${safe(object.name)}/${numbered(frame)}.png`, bytes: await png(bitmap, video) });
      work.show(files.length, all.length);
    }
  } finally {
    work.end();
  }
  return { name: `${safe(stem(video.name))}-masks.zip`, blob: zip(files) };
}
