/** Stores picture files and their records in IndexedDB, across reloads, for all windows of the page. Does not know what they mean. */

/** Small values by name, in the window's `storage`, localStorage or sessionStorage. A browser that lends none keeps them for this window. */
export class Values {
  #here = {};
  #kept;

  constructor(storage) {
    try {
      this.#kept = window[storage];
    } catch {} // its user blocks all cookies
  }

  get(name) {
    return this.#here[name] ?? this.#kept?.getItem(name) ?? "";
  }

  set(name, value) {
    this.#here[name] = value;
    try {
      this.#kept?.setItem(name, value);
    } catch {} // no room
  }
}

/** Values that the browser keeps. */
export const values = new Values("localStorage");

const settled = (request) =>
  new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });

/** Resolves once all of a transaction is written: a full disk shows only then. */
const written = (transaction) =>
  new Promise((resolve, reject) => {
    transaction.oncomplete = resolve;
    transaction.onabort = () => reject(transaction.error);
  });

/** A file, or several, as a copy of bytes. */
const copied = async (file) =>
  Array.isArray(file) ? Promise.all(file.map(copied)) : { name: file.name, type: file.type, bytes: await file.arrayBuffer() };

const restored = (kept) => {
  if (Array.isArray(kept)) return kept.map(restored);
  return !kept || kept instanceof Blob ? kept : new File([kept.bytes], kept.name, { type: kept.type });
};

export class Storage {
  #database;
  #keepsFiles;
  #waiting = new Map(); // records not yet written, by id
  #writing = null;
  #windows = new BroadcastChannel("sam2-page"); // which records are written, by id
  onwritten = () => {}; // called with the id of a record that another window has written or removed

  static async open() {
    const opening = indexedDB.open("sam2-page", 1);
    opening.onupgradeneeded = () => {
      opening.result.createObjectStore("files");
      opening.result.createObjectStore("records", { keyPath: "id" });
    };
    const storage = new Storage();
    storage.#database = await settled(opening);
    storage.#keepsFiles = await storage.#canKeepFiles();
    storage.#windows.onmessage = ({ data: id }) => storage.onwritten(id);
    return storage;
  }

  /** All records with their files, in the order of their ids. */
  async load() {
    const ids = await settled(this.#database.transaction("records").objectStore("records").getAllKeys());
    return (await Promise.all(ids.map((id) => this.read(id)))).filter(Boolean);
  }

  /** A record with its file, or null if it was removed. */
  async read(id) {
    const transaction = this.#database.transaction(["files", "records"]);
    const [record, file] = await Promise.all(["records", "files"].map((name) => settled(transaction.objectStore(name).get(id))));
    return record && file ? { ...record, file: restored(file) } : null;
  }

  /** Store a new picture. Its file is written once; its record, as it is then unless it has gone, after every change. */
  async add(file, recordNow) {
    const kept = this.#keepsFiles ? file : await copied(file), record = recordNow();
    if (!record) return;
    const transaction = this.#database.transaction(["files", "records"], "readwrite");
    transaction.objectStore("records").put(record);
    transaction.objectStore("files").put(kept, record.id);
    await written(transaction);
    this.#windows.postMessage(record.id);
  }

  /** Write a record; if `told`, other windows hear of it. If several wait for one picture, only the newest is written. Resolves once all are written. */
  save(record, told) {
    this.#waiting.set(record.id, { record, told: told || this.#waiting.get(record.id)?.told });
    return (this.#writing ??= this.#write().finally(() => (this.#writing = null)));
  }

  async remove(id) {
    this.#waiting.delete(id);
    const transaction = this.#database.transaction(["files", "records"], "readwrite");
    transaction.objectStore("files").delete(id);
    transaction.objectStore("records").delete(id);
    await written(transaction);
    this.#windows.postMessage(id);
  }

  /** Safari's private windows keep bytes, but no files: they would fail later, or wait for ever. */
  async #canKeepFiles() {
    const transaction = this.#database.transaction("files", "readwrite");
    transaction.objectStore("files").put(new Blob(["?"]), "");
    transaction.objectStore("files").delete("");
    return written(transaction).then(() => true, () => false);
  }

  async #write() {
    while (this.#waiting.size) {
      const [[id, { record, told }]] = this.#waiting;
      this.#waiting.delete(id);
      const transaction = this.#database.transaction("records", "readwrite");
      transaction.objectStore("records").put(record);
      await written(transaction);
      if (told) this.#windows.postMessage(id);
    }
  }
}
