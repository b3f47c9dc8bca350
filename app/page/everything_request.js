/** POST /everything, whose reply is a line of JSON for each step. Does not know what is found. */

import { address, ApiError, keyHeader, refusal, unreachable } from "./api.js";

const HEADERS = { "Content-Type": "application/json", Accept: "application/x-ndjson" };

/** The reply {width, height, masks, ...}. Calls `onStep` with the fraction that is done. Throws as api.js. */
export async function searchEverything(body, { signal, onStep }) {
  const reply = await sent(fetch(address("everything"), { method: "POST", body: JSON.stringify(body), signal, headers: { ...HEADERS, ...keyHeader() } }));
  if (!reply.ok) throw refusal(reply.status, await sent(reply.text()), (name) => reply.headers.get(name));
  for await (const line of linesOf(reply.body)) {
    const { progress, error, ...result } = line;
    if (error) throw new ApiError(500, error); // after the first step the status is 200, and a retry may help
    if (progress === undefined) return result;
    onStep(progress);
  }
  throw unreachable(); // cut off
}

async function* linesOf(body) {
  const reader = body.getReader(), decoder = new TextDecoder();
  let parts = []; // of a line that goes on
  for (;;) {
    const { value, done } = await sent(reader.read());
    const lines = decoder.decode(value, { stream: !done }).split("\n");
    for (const end of lines.slice(0, -1)) {
      yield JSON.parse(parts.join("") + end);
      parts = [];
    }
    parts.push(lines.at(-1));
    if (done) return;
  }
}

/** What the network gives. Throws ApiError if the connection is lost, and AbortError. */
const sent = (promise) => promise.catch((error) => {
  throw error.name === "AbortError" ? error : unreachable();
});
