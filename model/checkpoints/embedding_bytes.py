"""Embeddings to bytes and back, bit for bit: safetensors, with a checksum and a note of what they belong to.

Does not know about files.
"""

import json
import zlib
from collections.abc import Mapping

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from model.types import Embedding

_MAPS = ("image_rows", "feat_s1_rows", "feat_s0_rows")
_PROJECTION = "first_layer."
"""Older files have "first_projections." or "decoder_projections.", laid out otherwise in half precision: left
alone, and made again where they are wanted."""


class BrokenEmbedding(Exception):
    """The bytes are not the expected embedding. The message says why."""


def to_bytes(embedding: Embedding, note: Mapping[str, str]) -> bytes:
    """A safetensors file of an embedding in host memory. `from_bytes` requires the same note."""
    tensors = {name: getattr(embedding, name) for name in _MAPS}
    tensors |= {f"{_PROJECTION}{i}": each for i, each in enumerate(embedding.first_projections)}
    metadata = {**note, "height": str(embedding.height), "width": str(embedding.width)}
    metadata["checksum"] = _checksum(tensors, metadata)
    return safetensors.torch.save(tensors, metadata)


def from_bytes(data: bytes, note: Mapping[str, str]) -> Embedding:
    """Read the embedding into host memory. Raises BrokenEmbedding if it is altered or another's."""
    try:
        tensors = safetensors.torch.load(data)
        header_end = 8 + int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8:header_end]).get("__metadata__", {})
        checksum = metadata.pop("checksum", "missing")
        if checksum != _checksum(tensors, metadata):
            raise BrokenEmbedding("the checksum is wrong")
        differing = [key for key, value in note.items() if metadata.get(key) != value]
        if differing:
            raise BrokenEmbedding(f"it has another {' and another '.join(differing)}")
        # Copies lie where torch puts tensors, aligned as the encoder's own are: matrix products may round otherwise
        # where they are not.
        return Embedding(
            **{name: tensors[name].clone() for name in _MAPS},
            first_projections=tuple(
                tensors[name].clone() for name in sorted(tensors) if name.startswith(_PROJECTION)
            ),
            height=int(metadata["height"]),
            width=int(metadata["width"]),
        )
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BrokenEmbedding(f"it is not an embedding: {error}") from error


def _checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """CRC-32 of everything. It detects accidents, and is three times as fast as any digest."""
    shapes = {name: (str(tensor.dtype), list(tensor.shape)) for name, tensor in tensors.items()}
    crc = zlib.crc32(json.dumps([metadata, shapes], sort_keys=True).encode())
    for _, tensor in sorted(tensors.items()):
        crc = zlib.crc32(tensor.contiguous().view(torch.uint8).numpy().data, crc)
    return f"crc32:{crc:08x}"
