/** The strip that says what is wrong, and the quiet voice for screen readers. Does not know about requests. */

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

  /** Something fails at this moment and is being tried again. */
  get failing() {
    return this.#owner !== null;
  }

  /** A message that `clear(owner)` takes away; without an owner the person does. */
  show(owner, message) {
    this.#owner = owner;
    // Read aloud once, not again with every second of the countdown at its end.
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

  /** Resolves when the person says so. Rejects with AbortError. */
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

  /** Say to a screen reader what others see. */
  say(message) {
    $("said").textContent = message;
  }

  #wait(what, signal) {
    return new Promise((resolve, reject) => {
      const fail = () => reject(new DOMException("Nobody waits any more.", "AbortError"));
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
