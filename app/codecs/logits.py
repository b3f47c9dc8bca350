"""Mask logits as an opaque string, which /decode returns and accepts as mask_input.

Layout: magic, precision, height, width, CRC-32 of the values, the values; all in URL-safe base64. Does not know
about models: any model with the same mask size can read it.
"""

import base64
import struct
import zlib

import numpy as np
import numpy.typing as npt

from app.codecs.base64_text import Base64Error, decode_base64
from model.types import LOGIT_LIMIT

_HEADER = struct.Struct("<4sBHHI")
_MAGIC = b"SAML"
_DTYPES: dict[int, str] = {2: "<f2", 4: "<f4"}  # by bytes per value


def bytes_per_logit(dtype_name: str) -> int:
    """Bytes of a returned logit for a model of this type: 4 keep float32 exactly, 2 suit half precision."""
    return 4 if dtype_name == "float32" else 2


def encode_logits(logits_hw: npt.NDArray[np.float32], *, bytes_per_value: int) -> str:
    """Encode logits (h, w); see bytes_per_logit."""
    values = logits_hw.clip(-LOGIT_LIMIT, LOGIT_LIMIT).astype(_DTYPES[bytes_per_value]).tobytes()
    header = _HEADER.pack(_MAGIC, bytes_per_value, *logits_hw.shape, zlib.crc32(values))
    return base64.urlsafe_b64encode(header + values).decode("ascii")


def decode_logits(text: str, *, size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Decode logits (h, w) to float32.

    Raises ValueError, with the reason, for strings that `encode_logits` did not make.
    """
    try:
        data = decode_base64(text)
        magic, bytes_per_value, height, width, checksum = _HEADER.unpack_from(data)
    except (Base64Error, struct.error) as error:
        raise ValueError("it is not a logits string that /decode returned") from error
    values = memoryview(data)[_HEADER.size :]
    if magic != _MAGIC or bytes_per_value not in _DTYPES:
        raise ValueError("it is not a logits string that /decode returned")
    if (height, width) != size:
        raise ValueError(
            f"it holds {height}x{width} logits; this model's are {size[0]}x{size[1]}: it comes from another model"
        )
    if len(values) != height * width * bytes_per_value or zlib.crc32(values) != checksum:
        raise ValueError("it is damaged: send the string exactly as it was received")
    logits = np.frombuffer(values, np.dtype(_DTYPES[bytes_per_value])).reshape(size).astype(np.float32)
    if not np.isfinite(logits).all():
        raise ValueError("it holds values that are not finite")
    if (np.abs(logits) > LOGIT_LIMIT).any():  # the network could overflow, and call that its own fault
        raise ValueError(f"it holds values beyond {LOGIT_LIMIT:g}, which no reply has")
    return logits
