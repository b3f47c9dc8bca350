"""Reads TIFF: samples by tiff_samples.py, JPEG by tiff_jpeg.py; fax and other colours by Pillow.

Does not know about other formats.
"""

import io

from PIL import Image

from app.codecs import tiff_jpeg, tiff_samples
from app.codecs.deep import Stretch
from app.codecs.tiff_layout import BYTE_CODECS, JPEG, LAB, YCBCR, layout_of
from app.codecs.tiff_tags import Directory, Tag
from app.codecs.upright import Pixels, rows_of, upright


def decode(data: bytes, *, max_pixels: int, stretch: Stretch) -> Pixels:
    """Return the first picture upright. Raises InvalidImage for layouts that are not read, and what is cut off."""
    directory = Directory(data)
    layout = layout_of(directory, max_pixels=max_pixels)
    orientation = directory.one(Tag.ORIENTATION, 1)
    if layout.compression in BYTE_CODECS and layout.photometric not in (YCBCR, LAB):
        rows = tiff_samples.read(directory, layout, max_pixels=max_pixels, stretch=stretch)
        return upright(rows, size=layout.size, orientation=orientation)
    if layout.compression == JPEG:
        return upright(tiff_jpeg.read(directory, layout), size=layout.size, orientation=orientation)
    # without the orientation, by which Pillow would turn its own copy
    described = directory.with_tags({Tag.ORIENTATION: None, Tag.PHOTOMETRIC: (layout.photometric,)})
    with Image.open(io.BytesIO(described), formats=["TIFF"]) as image:
        image.load()
        return upright(rows_of(image), size=layout.size, orientation=orientation)
