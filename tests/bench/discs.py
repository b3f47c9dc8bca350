"""Weights that draw discs around a click: the golden encoder with a decoder built by hand.

Decoders with random weights draw noise of 50,000 runs, and the least rounding changes their masks. Trained ones
draw areas and tolerate rounding. These weights are for measurements that depend on that: half precision, the cost
of RLE. Every layer has its full size and is computed, but all attention except one has no effect. No accuracy is
claimed.

How it works: position frequencies are low, so that near places have similar codes. In the second layer each cell of
the picture compares its place with the tokens' places and reads a one if the click is near. The mask kernels are
fitted by least squares to turn that value into logits that are positive within a radius.
"""

import torch
from torch import Tensor

from model.network.config import VARIANTS
from tests.bench.weights import VARIANT, golden_state, plain_model

RADII = (0.3, 0.2, 0.3, 0.4)
"""Radius of the disc of each of the four masks, as a fraction of the picture's side."""

_FREQUENCIES = 0.3
_SHARPNESS = 1.2
_RIDGE = 1e-2
_TEXTURE = 0.02
"""How much the picture affects a mask: it makes the edge ragged."""

_LAYER = "sam_mask_decoder.transformer.layers.{}."


def disc_state(variant: str = VARIANT) -> dict[str, Tensor]:
    """Return float32 weights for `variant`, with names as in released checkpoints."""
    state = golden_state(variant)
    draw_discs(state, variant=variant)
    return state


def draw_discs(state: dict[str, Tensor], *, variant: str) -> None:
    """Rebuild the decoder in `state` in place. `state` has the golden weights of `variant`."""
    dim = VARIANTS[variant].embed_dim
    compared, others = _channels(dim)
    state["sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"] *= _FREQUENCIES
    _silence_attention(state)
    _pass_tokens_on(state, dim)
    _mark_the_click(state, compared, others)
    _compare_places(state, compared, others)
    _smooth_upscaling(state)
    _fit_kernels(state, variant)


def _channels(dim: int) -> tuple[Tensor, Tensor]:
    """Return the channels that are compared (sines and cosines of half of the frequencies), and the others."""
    sines = torch.arange(dim // 4)
    # Sines and their cosines go to the same head.
    compared = torch.stack([sines, sines + dim // 2], dim=1).flatten()
    others = torch.tensor([c for c in range(dim) if c not in set(compared.tolist())])
    return compared, others


def _silence_attention(state: dict[str, Tensor]) -> None:
    """Make attention and perceptrons add nothing, and normalisations of tokens only normalise."""
    for name in state:
        if not name.startswith("sam_mask_decoder.transformer."):
            continue
        if ".out_proj." in name or ".mlp.layers.1." in name:
            state[name] = torch.zeros_like(state[name])
        elif ".norm" in name:
            state[name] = torch.full_like(state[name], 1.0 if name.endswith("weight") else 0.0)


def _pass_tokens_on(state: dict[str, Tensor], dim: int) -> None:
    """Make every token read itself in the first self-attention, which has no residual."""
    attention = _LAYER.format(0) + "self_attn."
    for part, scale in (("q_proj", 4.0), ("k_proj", 4.0), ("v_proj", 1.0), ("out_proj", 1.0)):
        state[f"{attention}{part}.weight"] = torch.eye(dim) * scale
        state[f"{attention}{part}.bias"] = torch.zeros(dim)


def _mark_the_click(state: dict[str, Tensor], compared: Tensor, others: Tensor) -> None:
    """Leave only positions in the compared channels of tokens, and put a strong mark of clicks in the others."""
    for name in state:
        if name.startswith(
            ("sam_prompt_encoder.point_emb", "sam_prompt_encoder.not_a", "sam_mask_decoder.")
        ) and ("token.weight" in name or "tokens.weight" in name or "embed" in name):
            state[name][:, compared] = 0
    mark = 3 * torch.sign(state["sam_prompt_encoder.point_embeddings.1.weight"][:, others])
    for kind in (1, 2, 3):  # clicks on the object and both corners of a box
        state[f"sam_prompt_encoder.point_embeddings.{kind}.weight"][:, others] = mark


def _compare_places(state: dict[str, Tensor], compared: Tensor, others: Tensor) -> None:
    """Make a cell near the click read its mark, in the second layer's picture-to-token attention."""
    dim = len(compared) + len(others)
    calm = _LAYER.format(0) + "norm4."
    state[f"{calm}weight"] = torch.full((dim,), _TEXTURE)
    state[f"{calm}bias"][others] = torch.sign(state["sam_prompt_encoder.no_mask_embed.weight"][0, others])
    attention = _LAYER.format(1) + "cross_attn_image_to_token."
    selection = torch.zeros(len(compared), dim)
    selection[torch.arange(len(compared)), compared] = _SHARPNESS
    mark = state["sam_prompt_encoder.point_embeddings.1.weight"][0]
    for part in ("q_proj", "k_proj"):
        state[f"{attention}{part}.weight"] = selection.clone()
        state[f"{attention}{part}.bias"] = torch.zeros(len(compared))
    state[f"{attention}v_proj.weight"] = (mark / mark.abs().sum()).expand(len(compared), -1).contiguous()
    state[f"{attention}v_proj.bias"] = torch.zeros(len(compared))
    direction = torch.sign(state["sam_mask_decoder.iou_token.weight"][0])
    direction[compared] = torch.sign(state["sam_prompt_encoder.no_mask_embed.weight"][0, compared])
    state[f"{attention}out_proj.weight"] = (
        direction[:, None].expand(-1, len(compared)).div(len(compared) / 2).contiguous()
    )


def _smooth_upscaling(state: dict[str, Tensor]) -> None:
    """Give all four pixels of a cell the same value. The fine maps only add texture."""
    for layer in ("0", "3"):
        name = f"sam_mask_decoder.output_upscaling.{layer}.weight"
        state[name] = state[name].mean((2, 3), keepdim=True).expand_as(state[name]).mul(2.0).contiguous()
    for name in state:
        if name.startswith("sam_mask_decoder.conv_s"):
            state[name] = state[name] * _TEXTURE


@torch.no_grad()
def _fit_kernels(state: dict[str, Tensor], variant: str) -> None:
    """Fit kernels that do not depend on their token, on a few clicks on an empty picture."""
    model = plain_model(state, variant=variant)
    decoder, size = model.sam_mask_decoder, model.config.image_size
    seen: list[Tensor] = []
    hook = decoder.output_upscaling[2].register_forward_hook(lambda _, __, output: seen.append(output))
    places = [(0.5, 0.5), (0.2, 0.3), (0.8, 0.35), (0.35, 0.8), (0.75, 0.75)]
    side, cells, dim = model.config.mask_size, model.config.embedding_size, model.config.embed_dim
    centres = (torch.arange(side) + 0.5) / side
    features, distances = [], []
    for x, y in places:
        model.decode(
            torch.zeros(1, dim, cells, cells),
            torch.zeros(1, dim // 8, side, side),
            torch.zeros(1, dim // 4, side // 2, side // 2),
            coords=torch.tensor([[[x * size, y * size], [0.0, 0.0]]]),
            labels=torch.tensor([[1, -1]]),
            mask_logits=torch.zeros(1, 1, side, side),
            has_mask=torch.tensor([False]),
        )
        features.append(seen[-1][0].flatten(1).T)
        distances.append(torch.hypot(centres[None, :] - x, centres[:, None] - y).flatten())
    hook.remove()
    known, distance = torch.cat(features), torch.cat(distances)
    for token, radius in enumerate(RADII):
        wanted = (50 * (radius - distance)).clamp(-6, 6)
        layer = f"sam_mask_decoder.output_hypernetworks_mlps.{token}.layers.2."
        state[f"{layer}weight"] = torch.zeros_like(state[f"{layer}weight"])
        # A weak pull towards small kernels, so that they do not amplify the rounding of features.
        ridge = _RIDGE * len(known) * torch.eye(known.shape[1]) * known.pow(2).mean()
        state[f"{layer}bias"] = torch.linalg.solve(known.T @ known + ridge, known.T @ wanted)
