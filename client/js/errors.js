/** The error of a call: what the server said, or that it said nothing. Does not know when to try again. */

/**
 * @typedef {object} Refusal
 * @property {string} message
 * @property {string} [code]
 * @property {{where: string, what: string}[]} [details]
 * @property {number | null} [retryAfterS]
 * @property {string | null} [requestId]
 */

/** A reply that is not 2xx, or none at all: then `status` is 0. `message` is the server's own. */
export class ApiError extends Error {
  /**
   * @param {number} status
   * @param {Refusal} refusal
   */
  constructor(status, { message, code = "", details = [], retryAfterS = null, requestId = null }) {
    super(message);
    this.name = "ApiError";
    /** The HTTP status. */
    this.status = status;
    /** The code, as in the server's table of errors, or "connection_failed", "timed_out", "unexpected_reply", "picture_not_fetched". */
    this.code = code;
    /** Each wrong field of a rejected request, and what is wrong with it. */
    this.details = details;
    /** Seconds to wait before another try, if the server says so (Retry-After). */
    this.retryAfterS = retryAfterS;
    /** The id under which the server logged the request. */
    this.requestId = requestId;
  }
}

/** The statuses of errors in answers of /decode/stream, which carry none. All others have 500. */
const STATUS = /** @type {Record<string, number>} */ ({
  bad_request: 400, image_not_found: 404, invalid_prompt: 422, validation_error: 422, rate_limited: 429,
  names_unreachable: 503, not_ready: 503, overloaded: 503, shutting_down: 503, deadline_exceeded: 504,
});

/** @param {string} code */
export const statusOf = (code) => STATUS[code] ?? 500;

/** @param {string} message */
export const connectionFailed = (message) => new ApiError(0, { code: "connection_failed", message });

/**
 * A reply that is not one of this service: another server's, or a proxy's page.
 * @param {string} from an address, or what was asked for
 */
export const unexpectedReply = (from) =>
  new ApiError(200, { code: "unexpected_reply", message: `${from}: this is not a reply of a SAM 2 service.` });

/**
 * The error of a reply that is not 2xx.
 * @param {number} status
 * @param {string} text the body
 * @param {(name: string) => string | null} header
 */
export function refusal(status, text, header) {
  const known = { retryAfterS: secondsUntil(header("Retry-After")), requestId: header("X-Request-ID") };
  try {
    const { code, message, details } = JSON.parse(text).error;
    return new ApiError(status, { code: String(code), message: String(message), details, ...known });
  } catch { // a proxy's reply, not the service's
    return new ApiError(status, { code: "unexpected_reply", message: `The server replied with status ${status} and no error message.`, ...known });
  }
}

/**
 * Retry-After is a number of seconds or a date (RFC 9110, 10.2.3).
 * @param {string | null} said
 */
function secondsUntil(said) {
  const seconds = /^\s*\d+(\.\d+)?\s*$/.test(said ?? "") ? Number(said) : (Date.parse(said ?? "") - Date.now()) / 1000;
  return Number.isFinite(seconds) ? Math.max(seconds, 0) : null;
}
