"""Files of feature maps, for decoders that run elsewhere, for example in a browser.

Does not know whose embedding it is.
"""

import io
import json

import numpy as np
import safetensors.numpy

from app.service.segmentation import EmbeddingDtype, EmbeddingFormat
from model.types import Embedding


def pack(
    embedding: Embedding, *, dtype: EmbeddingDtype, form: EmbeddingFormat, metadata: dict[str, str]
) -> bytes:
    """Return the file. A .safetensors file has `metadata` as its metadata."""
    arrays = embedding.to_arrays(dtype)
    if form == "safetensors":
        contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        return _in_order(safetensors.numpy.save(contiguous, metadata=metadata))
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **arrays)
    return file.getvalue()


def _in_order(content: bytes) -> bytes:
    """Sort the metadata of a .safetensors file, which come in another order each time: the ETag is a strong one."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    ordered = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(end - 8)
    return b"".join((len(ordered).to_bytes(8, "little"), ordered, memoryview(content)[end:]))
