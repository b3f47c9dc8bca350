"""The prompt encoder: clicks, boxes and masks to embeddings (arXiv 2304.02643, A)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.network.config import Sam2Config
from model.network.layers import LayerNorm2d, Tokens

PADDING, NEGATIVE, POSITIVE, BOX_TOP_LEFT, BOX_BOTTOM_RIGHT = -1, 0, 1, 2, 3
"""Labels of point tokens. A box is two points; Meta's predictor always appends one padding point."""


class RandomFourierPositions(nn.Module):
    """Positions as random spatial frequencies (arXiv 2006.10739)."""

    positional_encoding_gaussian_matrix: Tensor

    def __init__(self, num_frequencies: int) -> None:
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.zeros(2, num_frequencies))

    def forward(self, positions: Tensor) -> Tensor:
        """(..., 2), x and y as fractions of the picture, to (..., 2 * num_frequencies), in float32.

        The angles turn several times over a picture: half precision would blur the position.
        """
        angles = 2 * math.pi * ((2 * positions - 1) @ self.positional_encoding_gaussian_matrix)
        return torch.cat([angles.sin(), angles.cos()], dim=-1)

    def grid(self, side: int) -> Tensor:
        """(c, side, side): the encoding of every cell's centre."""
        centres = (torch.arange(side, device=self.positional_encoding_gaussian_matrix.device) + 0.5) / side
        y, x = torch.meshgrid(centres, centres, indexing="ij")
        return self(torch.stack([x, y], dim=-1)).permute(2, 0, 1)


class PromptEncoder(nn.Module):
    """Point tokens (sparse) and one map per prompt (dense)."""

    def __init__(self, config: Sam2Config) -> None:
        super().__init__()
        dim, mask_dim = config.embed_dim, config.mask_in_chans
        self.image_size = config.image_size
        self.embedding_size = config.embedding_size
        self.pe_layer = RandomFourierPositions(dim // 2)
        self.point_embeddings = nn.ModuleList(Tokens(1, dim) for _ in range(4))
        self.not_a_point_embed = Tokens(1, dim)
        self.no_mask_embed = Tokens(1, dim)
        self.mask_downscaling = nn.Sequential(
            nn.Conv2d(1, mask_dim // 4, kernel_size=2, stride=2),
            LayerNorm2d(mask_dim // 4),
            nn.GELU(),
            nn.Conv2d(mask_dim // 4, mask_dim, kernel_size=2, stride=2),
            LayerNorm2d(mask_dim),
            nn.GELU(),
            nn.Conv2d(mask_dim, dim, kernel_size=1),
        )

    def embed_points(self, coords: Tensor, labels: Tensor) -> Tensor:
        """Points (b, n, 2) in pixels of the model's square picture and labels (b, n) to tokens (b, n, c)."""
        positions = self.pe_layer((coords + 0.5) / self.image_size)  # the centre of the pixel
        kinds = torch.cat(
            [e.get_parameter("weight") for e in (self.not_a_point_embed, *self.point_embeddings)]
        )
        is_point = (labels != PADDING).unsqueeze(-1)
        return F.embedding(labels + 1, kinds) + positions.to(kinds.dtype) * is_point

    def embed_masks(self, logits: Tensor) -> Tensor:
        """Mask logits (b, 1, 4 h, 4 w) to maps (b, c, h, w)."""
        return self.mask_downscaling(logits)

    def embed_no_mask(self) -> Tensor:
        """(c, 1, 1): the embedding of a prompt without a mask."""
        return self.no_mask_embed.weight[0][:, None, None]

    def image_positions(self) -> Tensor:
        """(c, h, w): the position of every cell of the image embedding."""
        return self.pe_layer.grid(self.embedding_size).to(self.no_mask_embed.weight.dtype)
