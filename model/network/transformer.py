"""The two-way transformer: prompt tokens read the picture, and the picture reads the tokens.

Segment Anything (arXiv 2304.02643, A, "Lightweight mask decoder").
"""

import torch.nn.functional as F
from torch import Tensor, nn

from model.network.layers import Attention, Mlp


class TwoWayAttentionBlock(nn.Module):
    """Tokens attend to themselves and to the picture, then the picture attends to the tokens."""

    def __init__(
        self, dim: int, *, num_heads: int, mlp_dim: int, downsample_rate: int, is_first: bool
    ) -> None:
        super().__init__()
        self.is_first = is_first
        self.self_attn = Attention(dim, num_heads=num_heads)
        self.norm1 = nn.LayerNorm(dim)
        self.cross_attn_token_to_image = Attention(dim, num_heads=num_heads, downsample_rate=downsample_rate)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, mlp_dim, dim, depth=2, activation=F.relu)
        self.norm3 = nn.LayerNorm(dim)
        self.cross_attn_image_to_token = Attention(dim, num_heads=num_heads, downsample_rate=downsample_rate)
        self.norm4 = nn.LayerNorm(dim)

    def forward(
        self, tokens: Tensor, image: Tensor, *, token_positions: Tensor, image_positions: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Tokens (b, n, c) and the picture's cells (b, h * w, c), both updated."""
        tokens = self.attend_to_self(tokens, token_positions)
        q, k = tokens + token_positions, image + image_positions
        tokens = self.norm2(tokens + self.cross_attn_token_to_image(q=q, k=k, v=image))
        tokens = self.norm3(tokens + self.mlp(tokens))

        placed = tokens + token_positions
        image = self.norm4(image + self.cross_attn_image_to_token(q=k, k=placed, v=tokens))
        return tokens, image

    def attend_to_self(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Self-attention of the tokens (b, n, c), and the norm behind it."""
        if self.is_first:  # the tokens are their own positions so far: none added, no residual
            return self.norm1(self.self_attn(q=tokens, k=tokens, v=tokens))
        placed = tokens + positions
        return self.norm1(tokens + self.self_attn(q=placed, k=placed, v=tokens))


class TwoWayTransformer(nn.Module):
    """A few two-way blocks and a last look of the tokens at the picture."""

    def __init__(self, dim: int, *, depth: int, num_heads: int, mlp_dim: int, downsample_rate: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            TwoWayAttentionBlock(
                dim,
                num_heads=num_heads,
                mlp_dim=mlp_dim,
                downsample_rate=downsample_rate,
                is_first=i == 0,
            )
            for i in range(depth)
        )
        self.final_attn_token_to_image = Attention(dim, num_heads=num_heads, downsample_rate=downsample_rate)
        self.norm_final_attn = nn.LayerNorm(dim)

    def forward(self, tokens: Tensor, image: Tensor, *, image_positions: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (b, n, c), picture and positions (b or 1, h * w, c), to both after attention."""
        token_positions = tokens  # a prompt's embedding is its position and its kind
        for layer in self.layers:
            tokens, image = layer(
                tokens, image, token_positions=token_positions, image_positions=image_positions
            )
        q, k = tokens + token_positions, image + image_positions
        tokens = tokens + self.final_attn_token_to_image(q=q, k=k, v=image)
        return self.norm_final_attn(tokens), image
