/** Repeats requests until they succeed: waits, asks for a key, or shows why it cannot continue. */

import { answers } from "./api.js";

const MOST_WAIT_S = 10;
const LEAST_COUNT_S = 1;
const MOST_COUNT_S = 120;
const REFUSED_MS = 1000; // a try that lasts longer is at work

/**
 * The result of `task`, which is retried if that can help. `notice` shows messages and buttons; see notice.js.
 * Throws errors that a retry cannot fix, and AbortError when `signal` is aborted.
 */
export async function patiently(task, { notice, signal }) {
  const shown = Symbol();
  try {
    for (;;) {
      const works = setTimeout(() => notice.clear(shown), REFUSED_MS);
      try {
        return await task();
      } catch (error) {
        clearTimeout(works);
        if (error.status === undefined) throw error;
        await wayOut(error, { notice, signal, shown });
      }
    }
  } finally {
    notice.clear(shown);
  }
}

async function wayOut(error, { notice, signal, shown }) {
  if (error.status === 0) {
    for (let wait = 1; !signal?.aborted; wait = Math.min(wait * 2, MOST_WAIT_S)) {
      await countDown(wait, (left) => notice.show(shown, `${error.message} Your work is kept. Trying again in ${left} s.`, "retry"), { notice, signal });
      if (await answers()) return;
    }
    signal.throwIfAborted();
  } else if (error.status === 401) {
    notice.show(shown, `${error.message} Enter the server's API key.`, "key");
    await notice.taken("key", signal);
  } else if (error.retryAfterS !== null) {
    const seconds = Math.min(Math.max(error.retryAfterS, LEAST_COUNT_S), MOST_COUNT_S);
    await countDown(seconds, (left) => notice.show(shown, `${error.message} Trying again in ${left} s.`, "retry"), { notice, signal });
  } else if (error.status === 429 || (error.status >= 500 && error.status !== 501)) { // a server that cannot do it never will
    notice.show(shown, error.message, "retry");
    await notice.taken("retry", signal);
  } else {
    throw error;
  }
}

/** Calls `show` once a second. The user may end the wait early. */
async function countDown(seconds, show, { notice, signal }) {
  const pressed = notice.taken("retry", signal);
  for (let left = Math.ceil(seconds); left > 0; left--) {
    show(left);
    const tick = new Promise((resolve) => setTimeout(resolve, 1000, "tick"));
    if (await Promise.race([pressed, tick]) !== "tick") return;
  }
}
