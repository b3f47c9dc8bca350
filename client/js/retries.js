/**
 * When to try again, and how long to wait before. Most calls can be repeated safely: embedding the same content gives the
 * same result, and decoding changes nothing. Does not know about requests.
 */

import { ApiError } from "./errors.js";

const FIRST_WAIT_S = 0.25; // if the server sends no Retry-After; doubled with each try
const LONGEST_WAIT_S = 30;
const LONGEST_TIMER_MS = 2 ** 31 - 1; // a longer one fires at once
const JITTER = 0.25; // of a wait, at random: so many clients do not return at one moment

/**
 * @typedef {object} Patience
 * @property {number} retries how often to try again: after status 429 or 503, or if the connection is lost
 * @property {number} deadlineS seconds for all tries together
 * @property {AbortSignal} [signal]
 * @property {(error: ApiError, seconds: number) => void} [onRetry] called before each wait
 * @property {boolean} [once] not again if the reply was lost: it may be done
 */

/**
 * The result of `task`, which gets a signal that is aborted at the deadline and with `signal`.
 * @template T
 * @param {(signal: AbortSignal) => Promise<T>} task
 * @param {Patience} patience
 * @returns {Promise<T>}
 */
export async function retrying(task, { retries, deadlineS, signal, onRetry, once = false }) {
  const ends = performance.now() + deadlineS * 1000;
  const deadline = new AbortController();
  const timer = timeout(() => deadline.abort(late(deadlineS)), deadlineS);
  const either = signal ? AbortSignal.any([signal, deadline.signal]) : deadline.signal;
  try {
    for (let tried = 1; ; tried++) {
      try {
        either.throwIfAborted();
        return await task(either);
      } catch (error) {
        either.throwIfAborted();
        const seconds = error instanceof ApiError && !(once && isLost(error)) ? waitS(error, tried) : null;
        // Who would be late anyway is told now, and why.
        if (!(error instanceof ApiError) || seconds === null || tried > retries || performance.now() + seconds * 1000 >= ends) throw error;
        onRetry?.(error, seconds);
        await pause(seconds, either);
      }
    }
  } finally {
    clearTimeout(timer);
  }
}

/**
 * Seconds to wait after try number `tried`, from 1, has failed; null if another would not help.
 * @param {ApiError} error
 * @param {number} tried
 */
function waitS(error, tried) {
  if (error.status !== 429 && error.status !== 503 && !isLost(error)) return null;
  const wait = error.retryAfterS ?? Math.min(FIRST_WAIT_S * 2 ** (tried - 1), LONGEST_WAIT_S);
  return wait * (1 + JITTER * Math.random());
}

/** @param {ApiError} error is it done? 502 is a proxy's */
export const isLost = ({ status, code }) => status === 502 || code === "connection_failed";

/** @param {number} seconds */
const late = (seconds) => new ApiError(0, { code: "timed_out", message: `There was no answer within ${seconds} s, the deadline of this call.` });

/**
 * Resolves after a time. Rejects when `signal` is aborted.
 * @param {number} seconds
 * @param {AbortSignal} signal
 */
const pause = (seconds, signal) => unlessAborted(new Promise((resolve) => timeout(resolve, seconds)), signal);

/**
 * @param {(_: void) => void} task
 * @param {number} seconds
 */
const timeout = (task, seconds) => setTimeout(task, Math.min(seconds * 1000, LONGEST_TIMER_MS));

/**
 * The result of a promise that others wait for too. Rejects as soon as `signal` is aborted; the promise goes on.
 * @template T
 * @param {Promise<T>} promise
 * @param {AbortSignal} signal
 * @returns {Promise<T>}
 */
export function unlessAborted(promise, signal) {
  return new Promise((resolve, reject) => {
    const abort = () => reject(signal.reason);
    if (signal.aborted) abort();
    signal.addEventListener("abort", abort);
    promise.then(resolve, reject).finally(() => signal.removeEventListener("abort", abort));
  });
}
