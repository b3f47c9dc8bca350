"""A mask that a user drew, as logits for the decoder. Does not know how the mask was sent."""

import numpy as np
import numpy.typing as npt
from PIL import Image

DRAWN_LOGIT = 10.0
"""A drawn mask becomes logits of +-10, as in SAM 2 (Sam2Base._use_mask_as_output)."""


def drawn_logits(mask: npt.NDArray[np.bool_], mask_size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Convert a mask at the picture's size to logits at the decoder's: bilinear with antialias, as Meta does."""
    picture = Image.fromarray(np.ascontiguousarray(mask).view(np.uint8) * np.uint8(255))
    shrunk = np.asarray(picture.resize(mask_size[::-1], Image.Resampling.BILINEAR), np.float32) / 255
    return ((shrunk * 2 - 1) * DRAWN_LOGIT).astype(np.float32)
