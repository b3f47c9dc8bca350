/** Writes PNG and ZIP files. Does not know what is in them. */

const TABLE = Uint32Array.from({ length: 256 }, (_, value) => {
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? 0xedb88320 ^ (value >>> 1) : value >>> 1;
  return value;
});

const [MOST_FILES, MOST_BYTES] = [0xffff, 0xffffffff];

const crc32 = (bytes) => ~bytes.reduce((crc, byte) => TABLE[(crc ^ byte) & 255] ^ (crc >>> 8), -1) >>> 0;

/** Concatenate numbers, given as [value, bytes] pairs. */
function pack(fields, littleEndian) {
  const view = new DataView(new ArrayBuffer(fields.reduce((sum, [, size]) => sum + size, 0)));
  let at = 0;
  for (const [value, size] of fields) {
    view[`setUint${size * 8}`](at, value, littleEndian);
    at += size;
  }
  return new Uint8Array(view.buffer);
}

const joined = async (parts) => new Uint8Array(await new Blob(parts).arrayBuffer());

/** Write a bitmap of 0 and 1 as a grey PNG of 0 and 255. Layout: https://www.w3.org/TR/png-3/ */
export async function png(bitmap, { width, height }) {
  const rows = new Uint8Array((width + 1) * height); // each row begins with its filter: 0, none
  for (let y = 0; y < height; y++) rows.set(bitmap.subarray(y * width, (y + 1) * width).map((value) => value * 255), y * (width + 1) + 1);
  const stream = new Blob([rows]).stream().pipeThrough(new CompressionStream("deflate"));
  const chunk = async (name, data) => {
    const body = await joined([name, data]);
    return [pack([[data.length, 4]]), body, pack([[crc32(body), 4]])];
  };
  return joined([
    pack([[0x89504e47, 4], [0x0d0a1a0a, 4]]),
    ...(await chunk("IHDR", pack([[width, 4], [height, 4], [8, 1], [0, 1], [0, 1], [0, 1], [0, 1]]))),
    ...(await chunk("IDAT", new Uint8Array(await new Response(stream).arrayBuffer()))),
    ...(await chunk("IEND", new Uint8Array())),
  ]);
}

/**
 * Write files {name, bytes} to a ZIP, uncompressed. Layout: PKWARE's APPNOTE.TXT, from 4.3.7 on. Throws RangeError for
 * what its numbers cannot count.
 */
export function zip(files) {
  const total = files.reduce((sum, { name, bytes }) => sum + bytes.length + 6 * name.length + 100, 0);
  if (files.length > MOST_FILES || total > MOST_BYTES) throw new RangeError("That is over 65,535 files or 4 GiB: export fewer pictures at once.");
  const parts = [], directory = [];
  const sized = (blobs) => blobs.reduce((sum, bytes) => sum + bytes.length, 0);
  let begins = 0;
  for (const { name, bytes } of files) {
    const path = new TextEncoder().encode(name);
    const common = [[0x0800, 2], [0, 2], [0, 2], [0x21, 2], [crc32(bytes), 4], [bytes.length, 4], [bytes.length, 4], [path.length, 2], [0, 2]];
    parts.push(pack([[0x04034b50, 4], [20, 2], ...common], true), path, bytes);
    directory.push(pack([[0x02014b50, 4], [20, 2], [20, 2], ...common, [0, 2], [0, 2], [0, 2], [0, 4], [begins, 4]], true), path);
    begins += sized(parts.slice(-3));
  }
  const count = [[files.length, 2], [files.length, 2]];
  const end = pack([[0x06054b50, 4], [0, 4], ...count, [sized(directory), 4], [begins, 4], [0, 2]], true);
  return new Blob([...parts, ...directory, end], { type: "application/zip" });
}
