"""The digest of an upload, by which it is known. Does not know how ids are made of it."""

import hashlib

from app.scheduling.shares import Workers
from app.telemetry.stages import StageTimes

_OFF_LOOP_BYTES = 256 * 1024
"""Hashing fewer bytes takes less time than passing the job to a thread."""


async def digest_of(data: bytes, *, workers: Workers, times: StageTimes, share: str) -> str:
    """Return the SHA-256 of an upload in hex, and record the stage "hash"."""
    with times.during("hash"):
        if len(data) < _OFF_LOOP_BYTES:
            return hashlib.sha256(data).hexdigest()
        return await workers.run(lambda: hashlib.sha256(data).hexdigest(), share=share)
