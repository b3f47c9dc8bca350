/** POST /everything, whose reply is a line of JSON for each step. Does not know what is found. */

import { ApiError, statusOf } from "../client/errors.js";
import { linesOf } from "../client/lines.js";
import { client } from "./api.js";

const { connection } = client;
const HEADERS = { "Content-Type": "application/json", Accept: "application/x-ndjson" };

/** The reply {width, height, masks, ...}. Calls `onStep` with the fraction that is done. Throws as the connection. */
export async function searchEverything(body, { signal, onStep }) {
  const reply = await connection.open("everything", { method: "POST", body: JSON.stringify(body), signal, headers: HEADERS });
  for await (const line of linesOf(connection, reply, signal)) {
    const { progress, error, ...result } = line;
    if (error) throw new ApiError(statusOf(error.code), error); // after the first step the reply has 200
    if (progress === undefined) return result;
    onStep(progress);
  }
  throw connection.silent(); // cut off
}
