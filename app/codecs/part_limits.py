"""Counts the parts of a picture file, and rejects files with too many, before any decoder sees them.

A few megabytes can hold millions of segments, chunks, blocks, boxes, strips or tiles, each of which costs a reader
an object or a system call. So each reader of this package takes them from `counted`. The limits are several times
what encoders write. Does not know about pixels.
"""

from collections.abc import Iterable, Iterator
from typing import TypeVar

from app.errors import ImageTooLarge, InvalidImage

MAX_JPEG_SEGMENTS = 4096
"""Segments, fill bytes before a marker not counted; profiles and metadata of cameras take up to a few hundred."""
MAX_PNG_CHUNKS = 65_536
"""64 MiB in chunks of 1 KiB; encoders write chunks of 8 KiB and more."""
MAX_GIF_BLOCKS = 65_536
"""Blocks before the first frame: comments and profiles, 255 bytes a block."""
MAX_TIFF_PARTS = 32_768
"""Strips or tiles: 100 megapixels in tiles of 64 x 64 have 24,414."""
MAX_WEBP_CHUNKS = 65_536
"""Two for each frame of an animation, and a few for metadata."""
MAX_AVIF_BOXES = 4096
"""Boxes, items and extents; a picture of 100 megapixels in tiles of 512 x 512 has some 400 items."""
MAX_VIDEO_BOXES = 500_000
"""Boxes of an MP4 or MOV: a fragmented one of an hour, with a fragment for each tenth of a second, has 300,000."""
MAX_VIDEO_SAMPLES = 2_000_000
"""Samples of one track: an hour of audio has 170,000, a day of video at 24 frames a second 2,073,600."""
MAX_VIDEO_EDITS = 10_000_000
"""Entries of a track's edit list times its samples: FFmpeg looks at all samples for each entry."""
MAX_GIF_VIDEO_BLOCKS = 4_000_000
"""Blocks in an animation, each of up to 255 bytes."""
MAX_SIDE_PX = 65_535
"""As in JPEG; the time to make a mask grows with its sides, not with its pixels."""
MAX_BYTES_A_PIXEL = 4
"""Samples of RGB with alpha take these with 8 bits each. Deeper ones cost as much more as they take more bytes."""

Part = TypeVar("Part")


def counted(found: Iterable[Part], *, most: int, of: str, parts: str) -> Iterator[Part]:
    """Yield what is found. Raises InvalidImage if there are more than `most`."""
    for count, part in enumerate(found, start=1):
        if count > most:
            raise InvalidImage(f"The {of} has more than {most} {parts}. Save it again.")
        yield part


def check_size(size: tuple[int, int], max_pixels: int, *, what: str = "picture") -> None:
    """Raise ImageTooLarge if `size` (width, height) has too many pixels or too long a side."""
    width, height = size
    if width * height > max_pixels:
        raise ImageTooLarge(
            f"The {what} is {width} x {height} = {width * height / 1e6:g} megapixels; "
            f"the limit is {max_pixels / 1e6:g} (SAM2_MAX_IMAGE_MEGAPIXELS). Send a smaller picture."
        )
    if max(size) > MAX_SIDE_PX:
        raise ImageTooLarge(
            f"The {what} is {width} x {height}; the limit for a side is {MAX_SIDE_PX}. Send a smaller picture."
        )


def check_bytes(total: int, max_pixels: int) -> None:
    """Raise ImageTooLarge if the samples of a picture take `total` bytes, and that is more than its limit."""
    if total > MAX_BYTES_A_PIXEL * max_pixels:
        raise ImageTooLarge(
            f"The samples of this picture take {total / 1e6:g} MB; the limit is {MAX_BYTES_A_PIXEL} bytes for "
            f"each pixel of SAM2_MAX_IMAGE_MEGAPIXELS, {MAX_BYTES_A_PIXEL * max_pixels / 1e6:g} MB. Save it with "
            "8 bits a channel, or send a smaller picture."
        )
