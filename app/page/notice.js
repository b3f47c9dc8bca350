/** The strip with error messages, and the messages for screen readers. Does not know about requests. */

import { apiKey } from "./api.js";

const $ = (id) => document.getElementById(id);

export class Notice {
  #told = null; // what the user dismisses, {message, way}; over what requests wait for
  #owners = new Map(); // the same of each request that has failed and waits; the newest is shown
  #waiting = [];

  constructor() {
    $("retry").onclick = () => this.#release("retry");
    $("dismiss").onclick = () => this.#tell(null);
    $("key-form").onsubmit = (event) => {
      event.preventDefault();
      apiKey.set($("key").value.trim());
      for (const shown of this.#owners.values()) if (shown.way === "key") shown.way = null;
      this.#tell(null);
      this.#release("key");
    };
  }

  /** Whether a request has failed and is being retried. */
  get failing() {
    return this.#owners.size > 0;
  }

  /** Show why a request waits, until `clear(owner)`, and a way out: the button "retry", or the field for the "key". */
  show(owner, message, way) {
    if (!this.#owners.has(owner)) this.outdate();
    this.#owners.set(owner, { message, way });
    this.#render();
  }

  /** Show a message until the user dismisses it. */
  tell(message) {
    this.#tell({ message });
  }

  /** What was told is of the past, unless it asks for the key. */
  outdate() {
    if (this.#told?.way !== "key") this.#tell(null);
  }

  clear(owner) {
    if (this.#owners.delete(owner)) this.#render();
  }

  /** Resolves when the user takes the way out. Rejects with AbortError. */
  taken(way, signal) {
    return new Promise((resolve, reject) => {
      const fail = () => reject(new DOMException("The request is no longer needed.", "AbortError"));
      if (signal?.aborted) fail();
      signal?.addEventListener("abort", fail, { once: true });
      this.#waiting.push({ way, resolve });
    });
  }

  openKey() {
    this.#tell({ message: "Enter the server's API key.", way: "key" });
  }

  /** Announce to screen readers what others see. */
  say(message) {
    $("said").textContent = message;
  }

  #release(way) {
    const [released, kept] = [true, false].map((same) => this.#waiting.filter((entry) => (entry.way === way) === same));
    this.#waiting = kept;
    for (const { resolve } of released) resolve();
  }

  #tell(told) {
    this.#told = told;
    this.#render();
  }

  #render() {
    const waiting = [...this.#owners.values()], shown = this.#told ?? waiting.at(-1);
    // The countdown is apart: screen readers must not repeat the message every second.
    const [, said, counted] = (shown?.message ?? "").match(/^(.*?)(\d+ s\.)?$/s);
    if ($("alert-text").textContent !== said) $("alert-text").textContent = said;
    $("alert-count").textContent = counted ?? "";
    $("alert").hidden = !shown;
    $("dismiss").hidden = !this.#told;
    $("retry").hidden = shown?.way !== "retry";
    const form = $("key-form"), asks = [this.#told, ...waiting].some((one) => one?.way === "key");
    if (form.hidden !== asks) return; // it stays as it is
    form.hidden = !asks;
    if (!asks) return;
    $("key").value = apiKey.get();
    $("key").focus();
  }
}
