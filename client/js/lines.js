/** Replies of a line of JSON for each step, as they arrive. Does not know what is in them. */

import { parsed } from "./connection.js";
import { unexpectedReply } from "./errors.js";

/**
 * Each line, parsed. Throws ApiErrors. Who stops reading closes the connection.
 * @param {import("./connection.js").Connection} connection
 * @param {Response} reply
 * @param {AbortSignal} [signal]
 * @returns {AsyncGenerator<any, void, void>}
 */
export async function* linesOf(connection, reply, signal) {
  if (!reply.headers.get("Content-Type")?.startsWith("application/x-ndjson")) throw unexpectedReply(reply.url);
  const reader = /** @type {ReadableStream<Uint8Array>} */ (reply.body).getReader(), decoder = new TextDecoder();
  /** @type {string[]} */
  let parts = []; // of a line that goes on
  try {
    for (;;) {
      const { value, done } = await connection.heard(reader.read(), signal);
      const lines = decoder.decode(value, { stream: !done }).split("\n");
      for (const end of lines.slice(0, -1)) {
        yield parsed(parts.join("") + end, reply.url);
        parts = [];
      }
      parts.push(/** @type {string} */ (lines.at(-1)));
      if (done) return;
    }
  } finally {
    reader.cancel().catch(() => {}); // it may be closed already
  }
}
