"""What a trunk that does not learn makes of pictures, kept on disk: only what follows it is computed again.

Does not know what pictures show. A picture of 448 px takes 2.3 MB.
"""

from hashlib import sha256
from pathlib import Path

import torch
from torch import Tensor

from model.network.sam2 import Sam2


class KeptMaps:
    """The trunk's four maps of each picture that was seen, in float16."""

    def __init__(self, folder: Path) -> None:
        """`folder` belongs to one trunk."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder

    def encode(self, network: Sam2, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As `network.encode`, with gradients that end behind the trunk."""
        each = [self._of(network, image[None]) for image in images]
        stages = [torch.cat(maps).to(images) for maps in zip(*each, strict=True)]
        return network.project(*network.image_encoder.neck(stages))

    def _of(self, network: Sam2, image: Tensor) -> list[Tensor]:
        path = self._folder / f"{sha256(image.float().cpu().contiguous().numpy().data).hexdigest()[:32]}.pt"
        if not path.is_file():
            with torch.no_grad():
                maps = [x.half().cpu().clone() for x in network.image_encoder.trunk(image)]
            half_written = path.with_suffix(".part")
            torch.save(maps, half_written)
            half_written.replace(path)
        found: list[Tensor] = torch.load(path, weights_only=True)
        return found
