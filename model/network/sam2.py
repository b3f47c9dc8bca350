"""SAM 2's image half wired together: pictures to embeddings, embeddings and prompts to masks.

Stateless. Takes tensors of one shape at a time; runner.py batches mixed prompts.
"""

import torch
from torch import Tensor, nn

from model.network.config import Sam2Config
from model.network.image_encoder import ImageEncoder
from model.network.mask_decoder import DecoderOutput, MaskDecoder
from model.network.prompt_encoder import PromptEncoder


class Sam2(nn.Module):
    """A released checkpoint's parameters without those of VideoMemory (memory.py), under their released names."""

    def __init__(self, config: Sam2Config) -> None:
        super().__init__()
        self.config = config
        self.image_encoder = ImageEncoder(config)
        self.sam_prompt_encoder = PromptEncoder(config)
        self.sam_mask_decoder = MaskDecoder(config)
        self.no_mem_embed = nn.Parameter(torch.zeros(1, 1, config.embed_dim))

    @property
    def encoder_dtype(self) -> torch.dtype:
        """What the image encoder computes in; all else has the precision of no_mem_embed."""
        return self.image_encoder.trunk.patch_embed.proj.weight.dtype

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Normalised pictures (b, 3, s, s) to image_embed, feat_s0 and feat_s1.

        What depends on the picture alone is done here once: conv_s0, conv_s1, and the embedding that says
        "no memory" of earlier video frames.
        """
        return self.project(*self.image_encoder(images))

    def project(self, stride_4: Tensor, stride_8: Tensor, stride_16: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The image encoder's maps to image_embed, feat_s0 and feat_s1: see `encode`."""
        dtype = self.no_mem_embed.dtype  # may be less than encoder_dtype
        decoder = self.sam_mask_decoder
        image_embed = stride_16.to(dtype) + self.no_mem_embed[0, 0][:, None, None]
        return image_embed, decoder.conv_s0(stride_4.to(dtype)), decoder.conv_s1(stride_8.to(dtype))

    def decode(
        self,
        image_embed: Tensor,
        feat_s0: Tensor,
        feat_s1: Tensor,
        *,
        coords: Tensor,
        labels: Tensor,
        mask_logits: Tensor,
        has_mask: Tensor,
    ) -> DecoderOutput:
        """Decode b prompts of n points each.

        `coords` (b, n, 2) in pixels of the square picture, `labels` (b, n), n may be 0. `mask_logits`
        (b, 1, 4 h, 4 w) is used where `has_mask` (b,) is true.
        """
        output, _ = self.decode_with_tokens(
            image_embed,
            feat_s0,
            feat_s1,
            coords=coords,
            labels=labels,
            mask_logits=mask_logits,
            has_mask=has_mask,
        )
        return output

    def decode_with_tokens(
        self,
        image_embed: Tensor,
        feat_s0: Tensor,
        feat_s1: Tensor,
        *,
        coords: Tensor,
        labels: Tensor,
        mask_logits: Tensor,
        has_mask: Tensor,
    ) -> tuple[DecoderOutput, Tensor]:
        """What `decode` answers, and the decoded mask tokens (b, 4, c). The finer maps may be those of one picture
        for all prompts: (1, c, h, w).
        """
        prompts = self.sam_prompt_encoder
        dense = prompts.embed_no_mask().expand(len(coords), -1, -1, -1)
        if has_mask.any():
            dense = torch.where(has_mask[:, None, None, None], prompts.embed_masks(mask_logits), dense)
        return self.sam_mask_decoder.run(
            image_embed,
            feat_s0,
            feat_s1,
            sparse=prompts.embed_points(coords, labels),
            dense=dense,
            image_positions=prompts.image_positions(),
        )
