"""Build the model from the settings: find or download the weights, load it on its device, and size its caches."""

import logging
from pathlib import Path
from time import perf_counter

from app.limits import whole_cpus
from app.segmenter import Segmenter
from app.settings import UNTRAINED, Settings
from app.storage.opening import CacheLimits
from model import devices
from model.checkpoints.download import locate
from model.checkpoints.parameters import recognise
from model.errors import CheckpointError, WeightsUnavailable
from model.gpu.options import GpuOptions
from model.runner import load_runner

log = logging.getLogger(__name__)

AUTO_SHARE = 4
"""SAM2_DEVICE_CACHE_MIB=auto on a CPU, and SAM2_HOST_CACHE_MIB=auto: one part of so many of the memory."""


def locate_weights(settings: Settings) -> Path | None:
    """Return the file or folder of weights that the settings name, downloaded if needed; None for random weights.

    Raises CheckpointError, whose message says what to do, if the file is not available.
    """
    if settings.checkpoint == UNTRAINED:
        return None
    if (path := settings.checkpoint_path) is not None:
        try:
            path.stat()
        except OSError as error:  # not only that it is missing: a folder above it may be closed to this user
            raise WeightsUnavailable(
                f"SAM2_CHECKPOINT names {path}: {error.strerror}. Correct it, leave it out to "
                f"use SAM2_MODEL's released file, or set it to '{UNTRAINED}' for random weights."
            ) from error
        return path
    return locate(
        settings.model,
        weights_dir=settings.weights_dir.expanduser().absolute(),
        base_url=settings.weights_url,
    )


def choose_variant(settings: Settings) -> str:
    """Return the model to build: the one in SAM2_MODEL or, if only SAM2_CHECKPOINT is set, that of its weights.

    Raises CheckpointError if the weights cannot be read. Unknown ones are left to the loader, which says more.
    """
    path = settings.checkpoint_path
    if path is None or settings.says_model:
        return settings.model
    variants = recognise(path)
    if not variants or settings.model in variants:
        return settings.model
    log.info(
        "SAM2_MODEL is not set; %s looks like %s%s",
        path,
        " or ".join(variants),
        f", and is served as {variants[0]}" if len(variants) > 1 else "",
    )
    return variants[0]


def count_gpus() -> int:
    """Return how many GPUs this process may use."""
    return devices.count_gpus()


def load_segmenter(settings: Settings) -> Segmenter:
    """Load the model. Raises CheckpointError or ValueError, whose messages say what to do."""
    checkpoint = locate_weights(settings)
    started = perf_counter()
    variant = choose_variant(settings)
    log.info("Loading %s from %s", variant, checkpoint or "random weights")
    runner = load_runner(
        variant,
        checkpoint=checkpoint,
        device=settings.device,
        dtype=settings.dtype,
        threads=settings.threads,
        cpus=whole_cpus(),
        gpu_options=GpuOptions(
            cache_mib=None if settings.device_cache_mib == "auto" else settings.device_cache_mib,
            batch_images=settings.batch_images,
            batch_prompts=settings.batch_prompts,
            compile=settings.compile,
            track_mib=0 if settings.video == "off" else settings.track_memory_mib,
        ),
    )
    log.info(
        "Loaded %s on %s%s in %s, %.1f s",
        runner.name,
        runner.device_name,
        f" (threads: {runner.cpu_threads})" if runner.cpu_threads else "",
        runner.dtype_name,
        perf_counter() - started,
    )
    return runner


def load_video_half(settings: Settings, segmenter: Segmenter) -> None:
    """Load the model's part for videos, if SAM2_VIDEO is on. Raises CheckpointError."""
    if settings.video != "on":
        return
    started = perf_counter()
    try:
        segmenter.tracking.load()
    except CheckpointError as error:
        raise CheckpointError(
            f"SAM2_VIDEO is on, and {error} With SAM2_VIDEO=auto the server starts, and only tracks fail."
        ) from error
    log.info("Loaded its part for videos in %.1f s", perf_counter() - started)


def cache_limits(settings: Settings, segmenter: Segmenter, *, memory_bytes: int) -> CacheLimits:
    """Bytes for embeddings on the device and in host memory, of which this process may use `memory_bytes`."""
    share = memory_bytes // AUTO_SHARE
    host = share if settings.host_cache_mib == "auto" else settings.host_cache_mib * 2**20
    device = segmenter.cache_bytes
    if device is None:
        device = share if settings.device_cache_mib == "auto" else settings.device_cache_mib * 2**20
    limits = CacheLimits(
        device, 0 if segmenter.shares_host_memory else host, track_bytes=segmenter.tracking.most_bytes
    )
    log.info(
        "Embeddings may take %d MiB%s",
        limits.device_bytes // 2**20,
        ""
        if segmenter.shares_host_memory
        else f" of the GPU and {limits.host_bytes // 2**20} MiB of host memory",
    )
    return limits
