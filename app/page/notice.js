/** The strip with error messages, and the messages for screen readers. Does not know about requests. */

import { apiKey } from "./api.js";

const $ = (id) => document.getElementById(id);

export class Notice {
  #owner = null;
  #waiting = [];

  constructor() {
    $("retry").onclick = () => this.#release("retry");
    $("dismiss").onclick = () => this.#hide();
    $("key-form").onsubmit = (event) => {
      event.preventDefault();
      apiKey.set($("key").value.trim());
      $("key-form").hidden = true;
      this.#release("key");
    };
  }

  /** Whether a request has failed and is being retried. */
  get failing() {
    return this.#owner !== null;
  }

  /** Show a message until `clear(owner)`. Without an owner, the user dismisses it. */
  show(owner, message) {
    this.#owner = owner;
    // The countdown at the end is a separate element: screen readers must not repeat the message every second.
    const [, said, counted] = message.match(/^(.*?)(\d+ s\.)?$/s);
    if ($("alert-text").textContent !== said) $("alert-text").textContent = said;
    $("alert-count").textContent = counted ?? "";
    $("alert").hidden = false;
    $("dismiss").hidden = owner !== null;
  }

  tell(message) {
    this.show(null, message);
    $("retry").hidden = true;
  }

  clear(owner) {
    if (this.#owner === owner) this.#hide();
  }

  /** Resolves when the user presses the button. Rejects with AbortError. */
  offerRetry(signal) {
    $("retry").hidden = false;
    return this.#wait("retry", signal);
  }

  askForKey(signal) {
    $("retry").hidden = true;
    this.openKey();
    return this.#wait("key", signal);
  }

  openKey() {
    $("key-form").hidden = false;
    $("key").value = apiKey.get();
    $("key").focus();
  }

  /** Announce to screen readers what others see. */
  say(message) {
    $("said").textContent = message;
  }

  #wait(what, signal) {
    return new Promise((resolve, reject) => {
      const fail = () => reject(new DOMException("The request is no longer needed.", "AbortError"));
      if (signal?.aborted) fail();
      signal?.addEventListener("abort", fail, { once: true });
      this.#waiting.push({ what, resolve });
    });
  }

  #release(what) {
    const [released, kept] = [true, false].map((same) => this.#waiting.filter((entry) => (entry.what === what) === same));
    this.#waiting = kept;
    for (const { resolve } of released) resolve();
  }

  #hide() {
    this.#owner = null;
    $("alert").hidden = true;
    $("alert-text").textContent = "";
    $("retry").hidden = true;
  }
}
