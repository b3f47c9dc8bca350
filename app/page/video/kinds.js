/** Which files are videos, and which pictures can be frames. Does not know what is done with them. */

const VIDEO = /\.(mp4|m4v|mov|webm|mkv|avi|mpe?g|ts|3gp|ogv|wmv|flv)$/i;
const PICTURE = /\.(heic|avif|tiff?|bmp)$/i;

export const isPicture = (file) => file.type.startsWith("image/") || PICTURE.test(file.name);

/** A file that only the server can tell is sent there: it says what it reads. A GIF is a video if it moves. */
export async function isVideo(file) {
  if (file.type === "image/gif") return moves(new Uint8Array(await file.arrayBuffer()));
  return file.type.startsWith("video/") || VIDEO.test(file.name);
}

/** By their numbers: frame 9 comes before frame 10. */
export const inOrder = (files) => [...files].sort((one, other) => one.name.localeCompare(other.name, "en", { numeric: true }));

/** Whether a GIF has a second image. Layout: https://www.w3.org/Graphics/GIF/spec-gif89a.txt */
function moves(bytes) {
  const table = (flags) => (flags & 0x80 ? 3 << ((flags & 7) + 1) : 0);
  let at = 13 + table(bytes[10]), images = 0;
  while (at < bytes.length) {
    const kind = bytes[at];
    if (kind === 0x2c) {
      if (++images === 2) return true;
      at += 11 + table(bytes[at + 9]); // with the first byte of the data
    } else if (kind === 0x21) at += 2;
    else return false;
    while (bytes[at]) at += bytes[at] + 1;
    at++;
  }
  return false;
}
