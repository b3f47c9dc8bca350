/** Calls the server's endpoints, times them, and turns errors into messages. Does not know about the page. */

const KEY = "sam2-api-key";

export const apiKey = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (key) => (key ? sessionStorage.setItem(KEY, key) : sessionStorage.removeItem(KEY)),
};

/** The full URL of an endpoint, also behind a proxy that serves the page below a path. */
export const address = (path) => new URL(path, document.baseURI).href;

/** A reply that is not 2xx. Status 0 means that there was no reply. */
export class ApiError extends Error {
  constructor(status, { code = "", message, retryAfter = null }) {
    super(message);
    Object.assign(this, { status, code, retryAfter });
  }
}

/** POST /decode. Returns {data, roundTripMs, serverMs, stages}. */
export const decode = (body, signal) =>
  request("decode", { method: "POST", body: JSON.stringify(body), signal, headers: { "Content-Type": "application/json" } });

export const describeModel = () => request("model");

/** Whether the server responds. */
export const answers = () => fetch(address("healthz")).then((reply) => reply.ok, () => false);

/** POST /embed. Calls `onProgress` with the fraction sent, 0..1; at 1 the server computes. Returns as decode. */
export function upload(file, onProgress) {
  return new Promise((resolve, reject) => {
    const sending = new XMLHttpRequest(); // fetch does not report upload progress
    const started = performance.now();
    sending.open("POST", address("embed"));
    sending.setRequestHeader("Content-Type", contentType(file));
    for (const [name, value] of Object.entries(keyHeader())) sending.setRequestHeader(name, value);
    sending.upload.onprogress = ({ loaded, total }) => onProgress(loaded / total);
    sending.upload.onload = () => onProgress(1);
    sending.onerror = () => reject(unreachable());
    sending.onload = () => {
      const header = (name) => sending.getResponseHeader(name);
      if (sending.status >= 200 && sending.status < 300) resolve(timed(JSON.parse(sending.responseText), started, header));
      else reject(refusal(sending.status, sending.responseText, header));
    };
    sending.send(file);
  });
}

export const contentType = (file) => (file.type.startsWith("image/") ? file.type : "application/octet-stream");

async function request(path, { headers = {}, ...rest } = {}) {
  const started = performance.now();
  let reply, text;
  try {
    reply = await fetch(address(path), { ...rest, headers: { ...headers, ...keyHeader() } });
    text = await reply.text();
  } catch (error) {
    throw error.name === "AbortError" ? error : unreachable();
  }
  const header = (name) => reply.headers.get(name);
  if (!reply.ok) throw refusal(reply.status, text, header);
  return timed(JSON.parse(text), started, header);
}

export const keyHeader = () => (apiKey.get() ? { "X-API-Key": apiKey.get() } : {});

function timed(data, started, header) {
  const stages = [...(header("Server-Timing") ?? "").matchAll(/([\w-]+);dur=([\d.]+)/g)].map(([, name, ms]) => [name, +ms]);
  return {
    data,
    roundTripMs: performance.now() - started,
    serverMs: stages.reduce((sum, [, ms]) => sum + ms, 0),
    stages,
  };
}

export const unreachable = () => new ApiError(0, { message: `The server at ${address("")} does not respond.` });

export function refusal(status, text, header) {
  const wait = parseFloat(header("Retry-After"));
  const retryAfter = Number.isFinite(wait) ? Math.min(Math.max(wait, 1), 120) : null;
  try {
    return new ApiError(status, { ...JSON.parse(text).error, retryAfter });
  } catch { // a proxy's reply, not the service's
    return new ApiError(status, { message: `The server replied with status ${status} and no error message.`, retryAfter });
  }
}
