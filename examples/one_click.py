"""Embed a picture, click on it, and save the mask drawn over it.

    .venv/bin/python examples/one_click.py truck.jpg --point 500,375

Needs httpx, pillow and numpy, but none of the server's own code.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image, ImageOps

COLOUR = (30, 144, 255)
OPACITY = 0.55


def main() -> None:
    """Parse the command line, send the requests, draw. What fails is one line."""
    parser = argparse.ArgumentParser(description="Save the mask of a click, drawn over the picture.")
    parser.add_argument("picture", type=Path)
    parser.add_argument(
        "--point", type=point, action="append", required=True, metavar="X,Y", help="on the object; repeatable"
    )
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="default: %(default)s")
    parser.add_argument("--output", type=Path, help="default: PICTURE with .mask.png")
    arguments = parser.parse_args()
    try:
        run(arguments)
    except OSError as error:  # a file that is missing, that Pillow cannot read, or that cannot be written
        sys.exit(str(error))
    except (httpx.RequestError, httpx.InvalidURL) as error:
        sys.exit(f"{arguments.url}: {error}")


def run(arguments: argparse.Namespace) -> None:
    """Embed the picture, decode the clicks, and draw the best mask."""
    output = arguments.output or arguments.picture.with_suffix(".mask.png")

    with httpx.Client(base_url=arguments.url, timeout=60) as client:
        picture = arguments.picture.read_bytes()
        embedded = reply(client.post("/embed", files={"image": picture}))
        print("embedded:", embedded)
        prompt = {"point_coords": arguments.point, "point_labels": [1] * len(arguments.point)}
        decoded = reply(client.post("/decode", json={"image_id": embedded["image_id"], **prompt}))

    best = decoded["predictions"][0]["masks"][0]  # masks are sorted by predicted IoU, best first
    print(f"best mask: predicted IoU {best['iou']}, {best['area']} pixels, bbox {best['bbox']}")
    draw(arguments.picture, decode_rle(best["rle"])).save(output)
    print("wrote", output)


def point(text: str) -> list[float]:
    """Parse a click from "x,y"."""
    x, y = text.split(",")
    return [float(x), float(y)]


def reply(response: httpx.Response) -> Any:
    """Return the JSON of a successful reply. For an error, exit with the server's message."""
    if response.is_error:
        sys.exit(f"{response.request.url}: {response.status_code} {response.text}")
    return response.json()


def decode_rle(rle: dict[str, Any]) -> np.ndarray:
    """Return the mask of a COCO RLE, (height, width) bool, with the same pixels as from pycocotools.mask.decode.

    The string holds the lengths of runs, starting with background, down one column after the other. A number is
    written in groups of five bits, lowest first, each as the character of its value + 48. Bit 6 says that another
    group follows; bit 5 of the last group is the sign. From the fourth run on, the number is the difference from
    the previous run of the same kind, two runs before.
    """
    lengths: list[int] = []
    number = shift = 0
    for character in rle["counts"]:
        group = ord(character) - 48
        number |= (group & 0x1F) << shift
        shift += 5
        if group & 0x20:
            continue
        if group & 0x10:
            number -= 1 << shift
        if len(lengths) > 2:
            number += lengths[-2]
        lengths.append(number)
        number = shift = 0
    height, width = rle["size"]
    is_object = np.arange(len(lengths)) % 2 == 1
    return np.repeat(is_object, lengths).reshape(width, height).T


def draw(path: Path, mask: np.ndarray) -> Image.Image:
    """Return the picture, upright, with the mask drawn over it in colour."""
    picture = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    pixels = np.asarray(picture, np.float32)
    tinted = (1 - OPACITY) * pixels + OPACITY * np.array(COLOUR, np.float32)
    return Image.fromarray(np.where(mask[..., None], tinted, pixels).round().astype(np.uint8))


if __name__ == "__main__":
    main()
