/** Keeps server and session in step: uploads pictures, requests masks, requests previews. */

import { Picture as Embedded } from "../client/pictures.js";
import { address, answers, apiKey, client, contentType, decode, describeModel, upload } from "./api.js";
import { patiently } from "./patience.js";
import { addPoint, asked as clientPrompt, curl, curlUpload, EMPTY } from "./prompts.js";

const LOST = "The server has lost this picture twice in a row, each time right after its upload. Click on its thumbnail to try again. " +
  "If that does not help, its SAM2_DEVICE_CACHE_MIB is too small, or several servers behind this address do not share a SAM2_CACHE_DIR.";
const PAUSE_MS = 3000; // after a preview that failed

/** What the page stores of a mask. */
const kept = ({ rle, iou, area, bbox, logits, region }) => ({ counts: rle.counts, iou, area, bbox, logits, ...(region && { region }) });

/** The code of closer looks. A server that is gone is waited for. */
const loadCloser = () => import("./closer.js").catch(async (error) => {
  throw await answers() ? error : client.connection.silent();
});

/** A picture as the client knows it. */
const wholeOf = ({ imageId, width, height, file }) => new Embedded(client, { image_id: imageId, width, height }, undefined, { file });

export class Requests {
  model = null; // the reply of GET /model, once it has arrived
  #uploading = null; // {picture, abort} of the upload in progress
  #asked = null; // {prompt, abort, looks} of the request in progress; looks: it waits for a part
  #hover = client.hover();
  #quietUntil = 0; // no previews before this time
  #parts = null; // those of closer looks
  #unfit = new WeakSet(); // pictures without, until they are switched off and on

  constructor(session, notice) {
    Object.assign(this, { session, notice });
    session.addEventListener("change", () => {
      if (!session.options.closer) this.#unfit = new WeakSet();
      this.#upload();
      this.#decode();
    });
  }

  /** The model and its limits, requested once, or `anew`: a server that was restarted may have others. Also shows early whether a key is required. */
  async describe(anew, signal) {
    if (anew) this.model = null;
    return (this.model ??= (await patiently(describeModel, { notice: this.notice, signal })).data);
  }

  /** Retry a picture that the server rejected, or that the browser could not show. */
  retry(picture) {
    this.notice.outdate();
    Object.assign(picture, { problem: "", unreadable: false, shown: null });
    this.session.redraw();
  }

  /** Upload a picture again that the server no longer has. If it was lost before, with no answer since, tell the user instead. */
  uploadAgain(picture) {
    picture.imageId = null;
    picture.lost = !picture.lost;
    if (picture.lost) return;
    picture.problem = LOST;
    this.notice.tell(`${picture.name}: ${LOST}`);
  }

  /** Preview a click at [x, y, label]; null ends it. */
  hover(point) {
    if (point) return void this.#preview(point);
    this.#hover.stop();
    if (!this.session.preview) return;
    this.session.preview = null;
    this.session.redraw();
  }

  /** Upload one picture at a time, the current one first. One that leaves the page lets the next go on. */
  async #upload() {
    const { session, notice } = this;
    const lacks = (picture) => picture && !picture.imageId && !picture.problem && !picture.video;
    const sent = this.#uploading;
    if (sent && (sent.picture.problem || !session.pictures.includes(sent.picture))) sent.abort.abort();
    const picture = lacks(session.current) ? session.current : session.pictures.find(lacks);
    if (!picture || this.#uploading) return;
    const abort = new AbortController(), { signal } = abort;
    this.#uploading = { picture, abort };
    const onProgress = (share) => {
      picture.progress = share;
      session.redraw();
    };
    try {
      const { limits } = await this.describe(false, signal);
      if (picture.file.size > limits.max_upload_mib * 2 ** 20) // browsers lose a rejection that arrives during an upload
        throw new Error(`The file has ${(picture.file.size / 2 ** 20).toFixed(1)} MiB, but the server accepts at most ${limits.max_upload_mib} MiB.`);
      const reply = await patiently(() => upload(picture.file, { onProgress, signal }), { notice, signal });
      const { image_id: imageId, width, height } = reply.data;
      Object.assign(picture, { imageId, width, height, progress: 1 });
      const file = { name: picture.name, type: contentType(picture.file) };
      if (!session.last) session.last = { ...reply, curl: curlUpload(address("embed"), file, { withKey: !!apiKey.get() }) };
      if (picture === session.current) notice.say(`${picture.name} is ready, ${width} by ${height} pixels.`);
    } catch (error) {
      if (!signal.aborted) {
        picture.problem = error.message;
        notice.tell(`${picture.name}: ${error.message}`);
      }
    }
    this.#uploading = null;
    session.changed(picture, false);
  }

  /** Request masks for the waiting prompt, the current picture's first. A newer click aborts it. */
  async #decode() {
    const { session, notice } = this;
    const picture = [session.current, ...session.pictures].find((one) => one?.imageId && one.unanswered);
    const prompt = picture?.unanswered ?? null;
    if (this.#asked?.prompt === prompt && (session.options.closer || !this.#asked?.looks)) return;
    this.#asked?.abort.abort();
    if (!prompt) return void (this.#asked = null);
    const asked = (this.#asked = { prompt, abort: new AbortController() });
    this.#hover.stop();
    try {
      const { signal } = asked.abort;
      const look = await this.#look(picture, asked), wanted = clientPrompt(prompt, picture);
      let body;
      const ask = (image_id) => decode((body = { image_id, ...look.fieldsOf(wanted), return_logits: true }), signal);
      const send = () => patiently(() => look.embedded(ask, signal), { notice, signal });
      const reply = await send().catch((error) => {
        if (error.code !== "invalid_prompt" || !wanted.mask?.logits) throw error;
        wanted.mask.logits = null; // they may be of another model: then its pixels are sent
        return send();
      });
      picture.lost = false;
      picture.answer(prompt, look.masksOf(reply.data, 1)[0].map(kept));
      session.last = { ...reply, curl: curl(address("decode"), body, { withKey: !!apiKey.get() }) };
      this.#describe(picture, prompt);
    } catch (error) {
      if (error.name === "AbortError") return;
      if (error.code === "image_not_found") this.uploadAgain(picture); // then asks again
      else {
        picture.refuse(prompt);
        notice.tell(error.message);
      }
    } finally {
      if (this.#asked === asked) this.#asked = null;
    }
    session.changed(picture, false);
  }

  /** The picture for a prompt, or a part of it on a closer look. */
  async #look(picture, asked) {
    const { notice, session } = this, whole = wholeOf(picture), { prompt, abort: { signal } } = asked;
    if (!session.options.closer || !prompt.previous || this.#unfit.has(picture)) return whole;
    asked.looks = true;
    try {
      const { limits } = await this.describe(false, signal);
      this.#parts ??= new (await patiently(loadCloser, { notice, signal })).Parts(session);
      return await patiently(() => this.#parts.at(picture, prompt, whole, { limits }), { notice, signal });
    } catch (error) {
      signal.throwIfAborted();
      this.#unfit.add(picture);
      notice.tell(`${picture.name} is refined without a closer look. ${error.message}`);
      return whole;
    } finally {
      asked.looks = false;
    }
  }

  #describe({ objects, width, height }, prompt) {
    const { name, masks } = objects.find((one) => one.prompt === prompt), [best] = masks;
    const many = masks.length > 1 ? `${masks.length} candidates. ` : "";
    this.notice.say(`${many}${name}: ${+(100 * best.area / (width * height)).toPrecision(2)} % of the picture, predicted IoU ${best.iou.toFixed(2)}.${best.region ? " A closer look." : ""}`);
  }

  async #preview(point) {
    const { session, notice } = this;
    const picture = session.current;
    if (this.#asked || notice.failing || !session.options.hover || !picture?.imageId || picture.video || performance.now() < this.#quietUntil) return;
    const { objects, object } = picture;
    const open = object && !object.done;
    const previous = open && session.options.refine ? object.masks?.[object.chosen] ?? null : null;
    const prompt = addPoint(open ? object.prompt : EMPTY, point, previous);
    try {
      const part = session.options.closer && this.#parts?.known(picture, prompt);
      const masks = await this.#hover.decode(part || wholeOf(picture), clientPrompt(prompt, picture));
      if (!masks || session.current !== picture || picture.objects !== objects) return;
      session.preview = kept(masks[0]);
      session.redraw();
    } catch { // a click shows what is wrong
      this.#quietUntil = performance.now() + PAUSE_MS;
    }
  }
}
