/** The page's own server, with the key that the user enters. Does not know about the page. */

import { Client } from "../client/client.js";
import { Values } from "./storage.js";

export { contentType } from "../client/connection.js";

const KEY = "sam2-api-key";
const values = new Values("sessionStorage");

export const apiKey = { get: () => values.get(KEY), set: (key) => values.set(KEY, key) };

/** The server, also behind a proxy that serves the page below a path. It tries once: patience.js shows why it waits. */
export const client = new Client(new URL(".", document.baseURI), { key: apiKey.get, retries: 0, deadlineS: Infinity });

const { connection } = client;

export const address = (path) => connection.address(path);

/** POST /decode. Returns {data, roundTripMs, serverMs, stages}, as all of these. */
export const decode = (body, signal) => connection.post("decode", body, { signal });

export const describeModel = () => connection.request("model");

/** Whether the server responds. */
export const answers = () => connection.answers();

/** POST /embed with `options` {onProgress, signal}. Calls `onProgress` with the fraction sent, 0..1; at 1 the server computes. */
export const upload = (file, options) => connection.upload("embed", file, options);
