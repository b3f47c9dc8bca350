/** The picture's position on the screen: a scale and an offset, in device pixels. Does not know about canvases. */

const MOST = 64;
const KEPT = 48; // device pixels of the picture that stay visible

export class View {
  scale = 1;
  x = 0;
  y = 0;
  fitted = true;

  /** Show the whole picture in the middle of the screen. Both are {width, height}. */
  fit(picture, screen) {
    const margin = Math.min(24, screen.width / 20);
    const room = Math.min((screen.width - 2 * margin) / picture.width, (screen.height - 2 * margin) / picture.height);
    this.scale = Math.min(Math.max(room, 0.001), 16);
    this.x = (screen.width - picture.width * this.scale) / 2;
    this.y = (screen.height - picture.height * this.scale) / 2;
    this.fitted = true;
  }

  /** Zoom by a factor. The point [x, y] of the screen stays where it is. */
  zoom(factor, [x, y], picture, screen) {
    const scale = Math.min(Math.max(this.scale * factor, 8 / Math.max(picture.width, picture.height)), MOST);
    this.x = x - (x - this.x) * scale / this.scale;
    this.y = y - (y - this.y) * scale / this.scale;
    this.scale = scale;
    this.pan(0, 0, picture, screen);
  }

  pan(dx, dy, picture, screen) {
    const held = (at, size, room) => Math.min(Math.max(at, KEPT - size * this.scale), room - KEPT);
    this.x = held(this.x + dx, picture.width, screen.width);
    this.y = held(this.y + dy, picture.height, screen.height);
    this.fitted = false;
  }

  toPicture([x, y]) {
    return [(x - this.x) / this.scale, (y - this.y) / this.scale];
  }

  toScreen([x, y]) {
    return [x * this.scale + this.x, y * this.scale + this.y];
  }
}
