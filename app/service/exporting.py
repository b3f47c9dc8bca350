"""The story of `sam2-serve export-decoder`: the model that the settings name, its decoder as a file for elsewhere.

Does not know about the command line, or about the graph.
"""

import logging
from pathlib import Path

from app.service.loading import choose_variant, locate_weights
from app.settings import Settings
from model.devices import resolve_device, resolve_dtype
from model.exporting import export_decoder, require_onnx
from model.network.preprocessing import PREPROCESSING
from model.runner import load_runner

log = logging.getLogger(__name__)


def export(settings: Settings, output: Path) -> None:
    """Write the decoder in float32, with the model's name and the fingerprint of a server with these settings.

    Raises ExportError, CheckpointError or ValueError, whose messages say what to do.
    """
    require_onnx()  # before weights are downloaded
    checkpoint = locate_weights(settings)
    variant = choose_variant(settings)
    runner = load_runner(variant, checkpoint=checkpoint, device="cpu", dtype="float32")
    dtype = resolve_dtype(settings.dtype, resolve_device(settings.device))
    metadata = {
        "model": runner.name,
        "fingerprint": runner.fingerprint_in(dtype),
        "image_size": str(runner.config.image_size),
        "preprocessing": PREPROCESSING,
    }
    size = export_decoder(runner.model, output, metadata=metadata)
    log.info(
        "Wrote %s: the decoder of %s, %.1f MB; fingerprint %.12s, in %s on the server",
        output,
        runner.name,
        size / 1e6,
        metadata["fingerprint"],
        str(dtype).removeprefix("torch."),
    )
