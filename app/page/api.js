/** The page's own server, with the key that the user enters. Does not know about the page. */

import { Client } from "../client/client.js";
import { ApiError } from "../client/errors.js";
import { lent } from "./storage.js";

export { contentType } from "../client/connection.js";

const KEY = "sam2-api-key";
const values = lent("sessionStorage");

export const apiKey = { get: () => values.getItem(KEY) ?? "", set: (key) => values.setItem(KEY, key) };

/** The server, also behind a proxy that serves the page below a path. It tries once: patience.js shows why it waits. */
export const client = new Client(new URL(".", document.baseURI), { key: apiKey.get, retries: 0, deadlineS: Infinity });

const { connection } = client;

export const address = (path) => connection.address(path);

/** POST /decode. Returns {data, roundTripMs, serverMs, stages}, as all of these. */
export const decode = (body, signal) => connection.post("decode", body, { signal });

export const describeModel = () => connection.request("model");

/** POST /everything, whose reply {width, height, masks, ...} is the last line. Calls `onStep` with the fraction that is done. */
export async function searchEverything(body, { signal, onStep }) {
  const headers = { "Content-Type": "application/json", Accept: "application/x-ndjson" };
  const reply = await connection.open("everything", { method: "POST", body: JSON.stringify(body), signal, headers });
  for await (const { progress, error, ...result } of connection.lines(reply, signal)) {
    if (error) throw new ApiError(500, error); // after the first step the status is 200, and a retry may help
    if (progress === undefined) return result;
    onStep(progress);
  }
  throw connection.silent(); // cut off
}

/** Whether the server responds. */
export const answers = () => connection.answers();

/** POST /embed with `options` {onProgress, signal}. Calls `onProgress` with the fraction sent, 0..1; at 1 the server computes. */
export const upload = (file, options) => connection.upload("embed", file, options);
