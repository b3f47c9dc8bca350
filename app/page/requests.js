/** Keeps the server in step with the session: uploads what it lacks, asks for the masks it owes, previews. */

import { address, apiKey, contentType, decode, describeModel, upload } from "./api.js";
import { patiently } from "./patience.js";
import { addPoint, curl, curlUpload, EMPTY, toBody } from "./prompts.js";

const masksOf = ({ data }) => data.predictions[0].masks.map(({ rle, iou, area, bbox, logits = null }) => ({ counts: rle.counts, iou, area, bbox, logits }));

export class Requests {
  model = null; // what GET /model says, once it has been asked
  #uploading = null;
  #asked = null; // {prompt, abort} of the click that is being answered
  #wanted = null; // the newest hover
  #hovering = false;
  #inside = false;

  constructor(session, notice) {
    Object.assign(this, { session, notice });
    session.addEventListener("change", () => {
      this.#upload();
      this.#decode();
    });
  }

  /** The model and its limits, asked for once; also how it is found out early that a key is needed. */
  async describe() {
    return (this.model ??= (await patiently(describeModel, { notice: this.notice })).data);
  }

  /** Try a picture again that the server refused. */
  retry(picture) {
    picture.problem = "";
    this.session.redraw();
  }

  /** Preview a click at [x, y, label]; null ends it. One request at a time, the newest wins, none is queued. */
  hover(point) {
    this.#wanted = point;
    this.#inside = point !== null;
    if (!point && this.session.preview) {
      this.session.preview = null;
      this.session.redraw();
    }
    this.#preview();
  }

  /** One picture at a time, the one that is looked at first. */
  async #upload() {
    const { session, notice } = this;
    const lacks = (picture) => picture && !picture.imageId && !picture.problem;
    const picture = lacks(session.current) ? session.current : session.pictures.find(lacks);
    if (!picture || this.#uploading) return;
    this.#uploading = picture;
    const onProgress = (share) => {
      picture.progress = share;
      session.redraw();
    };
    try {
      const { limits } = await this.describe();
      if (picture.file.size > limits.max_upload_mib * 2 ** 20) // a refusal in the middle of an upload is lost
        throw new Error(`The file has ${(picture.file.size / 2 ** 20).toFixed(1)} MiB; the server takes ${limits.max_upload_mib}.`);
      const reply = await patiently(() => upload(picture.file, onProgress), { notice });
      const { image_id: imageId, width, height } = reply.data;
      Object.assign(picture, { imageId, width, height, progress: 1 });
      const file = { name: picture.name, type: contentType(picture.file) };
      if (!session.last) session.last = { ...reply, curl: curlUpload(address("embed"), file, { withKey: !!apiKey.get() }) };
      if (picture === session.current) notice.say(`${picture.name} is ready, ${width} by ${height} pixels.`);
    } catch (error) {
      picture.problem = error.message;
      notice.tell(`${picture.name}: ${error.message}`);
    }
    this.#uploading = null;
    session.changed(picture);
  }

  /** The prompt that waits for its masks; one that a newer click has replaced is given up. */
  async #decode() {
    const { session, notice } = this;
    const picture = session.current;
    const prompt = picture?.imageId ? picture.unanswered : null;
    if (this.#asked?.prompt === prompt) return;
    this.#asked?.abort.abort();
    if (!prompt) return void (this.#asked = null);
    const asked = (this.#asked = { prompt, abort: new AbortController() });
    try {
      const body = toBody(picture.imageId, prompt, { logits: true });
      const { signal } = asked.abort;
      const reply = await patiently(() => decode(body, signal), { notice, signal });
      picture.answer(prompt, masksOf(reply));
      session.last = { ...reply, curl: curl(address("decode"), body, { withKey: !!apiKey.get() }) };
      this.#describe(picture);
    } catch (error) {
      if (error.name === "AbortError") return;
      if (error.code === "image_not_found") picture.imageId = null; // forgotten: uploaded again, then asked again
      else {
        if (picture.unanswered === prompt) picture.undo();
        notice.tell(error.message);
      }
    } finally {
      if (this.#asked === asked) this.#asked = null;
    }
    session.changed(picture);
  }

  #describe({ object, width, height }) {
    const [best] = object.masks;
    const share = (100 * best.area / (width * height)).toPrecision(2);
    const many = object.masks.length > 1 ? `${object.masks.length} candidates. ` : "";
    this.notice.say(`${many}${object.name}: ${+share} % of the picture, predicted IoU ${best.iou.toFixed(2)}.`);
  }

  async #preview() {
    const { session, notice } = this;
    const picture = session.current, point = this.#wanted;
    if (!point || this.#hovering || this.#asked || notice.failing || !session.options.hover || !picture?.imageId) return;
    this.#wanted = null;
    this.#hovering = true;
    const { objects, object } = picture;
    const open = object && !object.done;
    const previous = open && session.options.refine ? object.masks?.[object.chosen].logits ?? null : null;
    const prompt = addPoint(open ? object.prompt : EMPTY, point, previous);
    let failed = false;
    try {
      const [best] = masksOf(await decode(toBody(picture.imageId, prompt, { logits: false })));
      if (session.current === picture && picture.objects === objects && this.#inside) {
        session.preview = best;
        session.redraw();
      }
    } catch {
      failed = true; // a click will say what is wrong
    }
    if (failed) await new Promise((resolve) => setTimeout(resolve, 3000));
    this.#hovering = false;
    this.#preview();
  }
}
