/** The WebSocket /decode/stream: sends prompts with tags, and gives each its answer. Does not know which is the newest. */

import { ApiError, connectionFailed, statusOf, unexpectedReply } from "./errors.js";

/** @import { Connection } from "./connection.js" */

/** @typedef {{resolve: (answer: any) => void, reject: (error: unknown) => void}} Waiting */

/** Closed for a reason that another try would meet again, by the code. */
const FINAL = /** @type {Record<number, [number, string]>} */ ({ 4401: [401, "unauthorized"], 1009: [413, "message_too_large"] });

const REST_MS = 30_000; // after a connection that could not be opened: the server may have been restarting

export class Stream {
  #connection;
  /** @type {Promise<WebSocket> | null} */
  #opening = null;
  /** @type {Map<number, Waiting>} */
  #waiting = new Map();
  #tag = 0;
  /** No connection is tried before this time. */
  #restsUntil = 0;

  /** @param {Connection} connection */
  constructor(connection) {
    this.#connection = connection;
  }

  /** Whether a connection could not be opened a short time ago. */
  get refused() {
    return performance.now() < this.#restsUntil;
  }

  /**
   * Send one prompt, {image_id, ...}. Returns its answer, {predictions, ...}. Opens the connection if it isn't open. Rejects with
   * AbortError if a newer prompt of this connection took its place in the server.
   * @param {object} body
   * @param {AbortSignal} signal
   * @returns {Promise<any>}
   */
  ask(body, signal) {
    return new Promise((resolve, reject) => {
      const tag = ++this.#tag;
      const leave = () => {
        this.#waiting.delete(tag);
        signal.removeEventListener("abort", abort);
      };
      const abort = () => {
        leave();
        reject(signal.reason);
        if (signal.reason?.code === "timed_out") this.close(); // a connection whose other end is gone says nothing for minutes
      };
      if (signal.aborted) return abort();
      const opening = this.#open(); // throws what a `key` of the page throws
      signal.addEventListener("abort", abort);
      this.#waiting.set(tag, {
        resolve: (answer) => (leave(), resolve(answer)),
        reject: (error) => (leave(), reject(error)),
      });
      opening.then(
        (socket) => this.#waiting.has(tag) && socket.send(JSON.stringify({ tag, ...body })),
        () => {}, // the end of the connection rejects all that wait
      );
    });
  }

  /** Leave the connection: the next prompt opens another. */
  close() {
    this.#opening?.then((socket) => socket.close(1000), () => {});
    this.#opening = null;
  }

  /** @returns {Promise<WebSocket>} */
  #open() {
    return (this.#opening ??= this.#connect(this.#connection.key));
  }

  /**
   * @param {string} key
   * @returns {Promise<WebSocket>}
   */
  #connect(key) {
    /** @type {Promise<WebSocket>} */
    const mine = new Promise((resolve, reject) => {
      const url = new URL(this.#connection.address("decode/stream"));
      url.protocol = url.protocol.replace("http", "ws");
      /** @type {WebSocket} */
      let socket;
      let opened = false;
      const ended = (/** @type {ApiError} */ error) => {
        if (this.#opening !== mine) return reject(error); // left
        this.#opening = null;
        if (!opened) this.#restsUntil = performance.now() + REST_MS;
        this.#fail(error);
        reject(error);
      };
      const refused = () => connectionFailed(`The connection to ${url.href} could not be opened.`);
      try {
        socket = new WebSocket(url);
      } catch { // the page's policy forbids it, or, in older Node, there are none
        return queueMicrotask(() => ended(refused()));
      }
      socket.onopen = () => {
        opened = true;
        if (key) socket.send(JSON.stringify({ api_key: key })); // browsers cannot set headers here
        resolve(socket);
      };
      socket.onmessage = ({ data }) => {
        try {
          this.#answer(JSON.parse(data));
        } catch { // not of this service
          this.#fail(unexpectedReply(url.href));
        }
      };
      socket.onclose = (event) => ended(opened ? closed(event) : refused());
    });
    return mine;
  }

  /** @param {ApiError} error of all that wait */
  #fail(error) {
    for (const { reject } of [...this.#waiting.values()]) reject(error);
  }

  /** @param {any} answer */
  #answer({ tag, skipped, error, retry_after_s: retryAfterS, ...answer }) {
    if (error) {
      const failed = new ApiError(statusOf(error.code), { ...error, retryAfterS });
      if (tag === null) this.#fail(failed); // the server could not read which prompt it was
      else this.#waiting.get(tag)?.reject(failed);
    } else if (skipped) this.#waiting.get(tag)?.reject(new DOMException("A newer prompt took its place.", "AbortError"));
    else this.#waiting.get(tag)?.resolve(answer); // none waits if it was aborted
  }
}

/** @param {CloseEvent} event */
function closed({ code, reason }) {
  const message = `The server closed the connection: ${reason || code}.`;
  const [status, name] = FINAL[code] ?? [0, "connection_failed"];
  return new ApiError(status, { code: name, message });
}
