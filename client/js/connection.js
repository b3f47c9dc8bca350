/** Requests to one server, with its key: replies are timed, and failures are ApiErrors. Does not try twice. */

import { ApiError, connectionFailed, refusal, unexpectedReply } from "./errors.js";

/** @typedef {string | (() => string)} Key an API key, or a function that returns the current one; "" for none */

/**
 * @typedef {object} Sent
 * @property {string} [method]
 * @property {Record<string, string>} [headers]
 * @property {BodyInit | null} [body]
 * @property {AbortSignal} [signal]
 */

/**
 * @typedef {object} Reply
 * @property {any} data the body
 * @property {number} roundTripMs
 * @property {number} serverMs
 * @property {[string, number][]} stages the stages of serverMs, from Server-Timing
 */

const UNSENDABLE = "The API key has a character that cannot be sent, perhaps an invisible one that was copied along.";

export class Connection {
  #key;

  /**
   * @param {string | URL} url the server's, also below a path, or relative to the page
   * @param {Key} key
   */
  constructor(url, key = "") {
    if (/^[\w.-]+:\d/.test(String(url))) throw new TypeError(`The server's address lacks http:// or https:// at its start: ${url}`);
    /** The server's URL, with a slash at the end. */
    this.url = new URL(url, globalThis.document?.baseURI);
    if (!this.url.pathname.endsWith("/")) this.url.pathname += "/";
    this.#key = key;
  }

  get key() {
    return typeof this.#key === "function" ? this.#key() : this.#key;
  }

  /**
   * The full URL of an endpoint, without a slash at its start.
   * @param {string} path
   */
  address(path) {
    return new URL(path, this.url).href;
  }

  /** Whether the server responds. */
  answers() {
    return fetch(this.address("healthz")).then((reply) => reply.ok, () => false);
  }

  /**
   * Send a request whose reply is JSON.
   * @param {string} path
   * @param {Sent} [sent]
   * @returns {Promise<Reply>}
   */
  async request(path, sent = {}) {
    const started = performance.now();
    const reply = await this.open(path, sent);
    const text = await this.heard(reply.text(), sent.signal);
    return timed(text, started, (name) => reply.headers.get(name), reply.url);
  }

  /**
   * POST a value as JSON.
   * @param {string} path
   * @param {object} value
   * @param {{signal?: AbortSignal}} [options]
   */
  post(path, value, { signal } = {}) {
    return this.request(path, { method: "POST", body: JSON.stringify(value), headers: { "Content-Type": "application/json" }, signal });
  }

  /**
   * Send a request, and return the reply once its status is known to be 2xx: its body is still to be read, through `heard`.
   * @param {string} path
   * @param {Sent} [sent]
   */
  async open(path, { headers = {}, ...rest } = {}) {
    const reply = await this.heard(fetch(this.address(path), { ...rest, headers: { ...headers, ...this.#keyHeader() } }), rest.signal);
    if (!reply.ok)
      throw moved(this.address(path), reply.url, reply.status)
        ?? refusal(reply.status, await this.heard(reply.text(), rest.signal), (name) => reply.headers.get(name));
    return reply;
  }

  /**
   * POST a file. Calls `onProgress` with the fraction sent, 0..1; at 1 the server computes.
   * @param {string} path
   * @param {Blob} file
   * @param {{onProgress: (share: number) => void, signal?: AbortSignal}} options
   * @returns {Promise<Reply>}
   */
  upload(path, file, { onProgress, signal }) {
    return new Promise((resolve, reject) => {
      signal?.throwIfAborted();
      const sending = new XMLHttpRequest(); // fetch does not report upload progress
      const abort = () => sending.abort();
      const started = performance.now();
      sending.open("POST", this.address(path));
      sending.setRequestHeader("Content-Type", contentType(file));
      for (const [name, value] of Object.entries(this.#keyHeader())) sending.setRequestHeader(name, value);
      sending.upload.onprogress = ({ loaded, total }) => onProgress(loaded / total);
      sending.upload.onload = () => onProgress(1);
      sending.onerror = () => reject(this.silent());
      sending.onabort = () => reject(signal?.reason);
      sending.onload = () => {
        const header = (/** @type {string} */ name) => sending.getResponseHeader(name);
        try {
          if (sending.status < 200 || sending.status > 299)
            throw moved(this.address(path), sending.responseURL, sending.status) ?? refusal(sending.status, sending.responseText, header);
          resolve(timed(sending.responseText, started, header, sending.responseURL));
        } catch (error) {
          reject(error);
        }
      };
      sending.onloadend = () => signal?.removeEventListener("abort", abort);
      signal?.addEventListener("abort", abort);
      sending.send(file);
    });
  }

  /** @returns {Record<string, string>} */
  #keyHeader() {
    const { key } = this;
    if (/[^\t\n\r -~\x80-\xff]/.test(key)) throw new ApiError(401, { code: "unauthorized", message: UNSENDABLE }); // no header can carry it
    return key ? { "X-API-Key": key } : {};
  }

  /**
   * The result of a promise of fetch, or of a reply's body: whatever fails without being aborted is the connection.
   * @template T
   * @param {Promise<T>} promise
   * @param {AbortSignal} [signal]
   */
  async heard(promise, signal) {
    try {
      return await promise;
    } catch {
      signal?.throwIfAborted();
      throw this.silent();
    }
  }

  /** The error of a connection that is lost. Browsers do not tell it from a server that does not let this page call it. */
  silent() {
    const elsewhere = globalThis.location && globalThis.location.origin !== this.url.origin;
    const allow = elsewhere ? ` If it runs, SAM2_CORS_ORIGINS must have the origin of this page, ${globalThis.location.origin}.` : "";
    return connectionFailed(`The server at ${this.url.href} does not respond.${allow}`);
  }
}

/**
 * The error of a POST that a redirect with 301 or 302 made a GET, which the service refuses.
 * @param {string} asked
 * @param {string} from
 * @param {number} status
 */
const moved = (asked, from, status) => status === 405 && from && from !== asked
  ? new ApiError(status, { code: "unexpected_reply", message: `${asked} redirects to ${from}: give the client the address of that server.` })
  : null;

/** @param {Blob} file */
export const contentType = (file) => (file.type.startsWith("image/") ? file.type : "application/octet-stream");

/**
 * @param {string} text
 * @param {number} started
 * @param {(name: string) => string | null} header
 * @param {string} from
 * @returns {Reply}
 */
function timed(text, started, header, from) {
  const stages = [...(header("Server-Timing") ?? "").matchAll(/([\w-]+);dur=([\d.]+)/g)]
    .map(([, name, ms]) => /** @type {[string, number]} */ ([name, Number(ms)]));
  return {
    data: parsed(text, from),
    roundTripMs: performance.now() - started,
    serverMs: stages.reduce((sum, [, ms]) => sum + ms, 0),
    stages,
  };
}

/**
 * @param {string} text
 * @param {string} from
 * @returns {any}
 */
export function parsed(text, from) {
  try {
    const value = JSON.parse(text);
    if (value instanceof Object) return value;
  } catch {} // a proxy's page
  throw unexpectedReply(from);
}
