/** Reads folders that are dropped. Does not know what is done with their files. */

/** The files in dropped entries of a file system, folders within folders too, by their names' numbers; none that is hidden. */
export async function filesIn(entries) {
  const found = [], heard = (ask) => new Promise((resolve, reject) => ask(resolve, reject));
  for (const entry of entries) {
    if (entry.name.startsWith(".")) continue;
    if (entry.isFile) found.push(await heard((...given) => entry.file(...given)));
    else {
      const reader = entry.createReader(), inside = [];
      for (let some; (some = await heard((...given) => reader.readEntries(...given))).length;) inside.push(...some); // 100 at a time
      inside.sort((one, other) => one.name.localeCompare(other.name, "en", { numeric: true }));
      found.push(...(await filesIn(inside)));
    }
  }
  return found;
}
