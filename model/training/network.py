"""A network to begin training with, and the copy in which its gradients are computed.

Does not know about pictures, prompts or losses.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from model.network.config import Sam2Config
from model.network.layers import Attention
from model.network.sam2 import Sam2

_DEVIATION = 0.02
"""Of the trunk's first weights, as Hiera has it (arXiv 2306.00989)."""


_CPU = torch.device("cpu")

_NEARNESS = 2.0
"""By how much cross-attention's first queries are enlarged, for a near cell to outweigh far ones."""


def initial_network(config: Sam2Config, *, seed: int) -> Sam2:
    """A network in float32 on the CPU, its values a function of `seed`.

    The trunk and the picture's own embeddings start as a truncated normal, as in Hiera. Neck, prompts and
    decoder start with torch's defaults, as in Segment Anything, except for cross-attention; position
    frequencies as a standard normal.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Sam2(config)
        trunk = network.image_encoder.trunk
        for module in trunk.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=_DEVIATION)
                nn.init.zeros_(module.bias)
        for embedding in (trunk.pos_embed, trunk.pos_embed_window, network.no_mem_embed):
            nn.init.trunc_normal_(embedding, std=_DEVIATION)
        nn.init.normal_(network.sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix)
        for attention in network.sam_mask_decoder.transformer.modules():
            if (
                isinstance(attention, Attention)
                and attention.q_proj.out_features < attention.q_proj.in_features
            ):
                _look_where_the_position_is_alike(attention)
    return network


def _look_where_the_position_is_alike(attention: Attention) -> None:
    """Begin cross-attention with queries and keys projected alike, so that a click and the cells about it meet.

    (After "Mimetic Initialization of Self-Attention Layers", arXiv 2305.09828.) Without it the decoder does not
    see where a click is for its first thousand steps, and learns to predict nothing.
    """
    attention.q_proj.weight.data *= _NEARNESS
    attention.k_proj.weight.data.copy_(attention.q_proj.weight)


def network_of(
    config: Sam2Config,
    weights: Mapping[str, Tensor],
    *,
    device: torch.device = _CPU,
    dtype: torch.dtype = torch.float32,
) -> Sam2:
    """A network with copies of these weights, as an exported file or a run's state has them; buffers in float32."""
    with torch.device("meta"):
        network = Sam2(config)
    buffers = {name for name, _ in network.named_buffers()}
    own = {
        name: x.to(device, torch.float32 if name in buffers else dtype, copy=True)
        for name, x in weights.items()
    }
    network.load_state_dict(own, assign=True)
    return network


class WorkingCopy:
    """A network in lower precision that computes the gradients of one kept in float32.

    Pictures and losses would not tell half a bit of a weight, but small steps would be lost without float32.
    """

    def __init__(self, exact: Sam2, *, dtype: torch.dtype) -> None:
        self._exact = exact
        self.network = exact
        if dtype != torch.float32:
            self.network = Sam2(exact.config).to(next(exact.parameters()).device)
            self.network.load_state_dict(exact.state_dict())
            for parameter in self.network.parameters():  # buffers hold positions, and keep float32
                parameter.data = parameter.data.to(dtype)
        self._pairs = list(zip(exact.parameters(), self.network.parameters(), strict=True))

    def hand_over_gradients(self) -> None:
        """Move the copy's gradients to the exact network."""
        if self.network is self._exact:
            return
        gradients, copied = [], []
        for exact, copy in self._pairs:
            exact.grad = torch.empty_like(exact) if exact.grad is None else exact.grad
            gradients.append(exact.grad)
            copied.append(torch.zeros_like(copy) if copy.grad is None else copy.grad)
        torch._foreach_copy_(gradients, copied)
        self.network.zero_grad(set_to_none=True)

    @torch.no_grad()
    def follow(self) -> None:
        """Take over the exact network's weights."""
        if self.network is not self._exact:
            exact, copies = zip(*self._pairs, strict=True)
            torch._foreach_copy_(copies, exact)
