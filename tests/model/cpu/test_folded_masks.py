"""A mask folded into projections is the mask's map, projected."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from model.cpu.decoder import CpuDecoder
from model.cpu.folded_masks import FoldedMasks
from model.network.config import VARIANTS
from model.network.prompt_encoder import PromptEncoder
from tests.model.test_runner import make_runner

SMALL = replace(VARIANTS["sam2.1_hiera_tiny"], image_size=128)
CELLS = SMALL.embedding_size**2


@pytest.fixture
def prompts() -> PromptEncoder:
    """Every parameter random, biases and norms too."""
    torch.manual_seed(4)
    encoder = PromptEncoder(SMALL).requires_grad_(requires_grad=False)
    for parameter in encoder.parameters():
        parameter.copy_(torch.randn(parameter.shape))
    return encoder


@pytest.fixture
def logits() -> Tensor:
    return torch.randn(SMALL.mask_size, SMALL.mask_size) * 5


def test_its_channels_make_the_map(prompts: PromptEncoder, logits: Tensor) -> None:
    folded = FoldedMasks(prompts, [nn.Linear(256, 8)])
    rows = torch.randn(CELLS, 256)
    expected = rows + prompts.embed_masks(logits[None, None])[0].flatten(1).T
    torch.testing.assert_close(
        folded.on_rows(rows, folded.channels(logits)) + folded.bias, expected, atol=1e-3, rtol=1e-4
    )


def test_it_is_added_to_projections_that_were_made_without_a_mask(
    prompts: PromptEncoder, logits: Tensor
) -> None:
    layers = [nn.Linear(256, width).requires_grad_(requires_grad=False) for width in (8, 8, 24)]
    folded = FoldedMasks(prompts, layers)
    rows = torch.randn(CELLS, 256)
    without = [layer(rows + prompts.embed_no_mask().flatten()).T for layer in layers]
    with_mask = rows + prompts.embed_masks(logits[None, None])[0].flatten(1).T
    found = folded.on_projections(without, folded.channels(logits))
    for actual, layer in zip(found, layers, strict=True):
        torch.testing.assert_close(actual, layer(with_mask).T, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize(
    ("dtype", "folds"), [(torch.bfloat16, True), (torch.float16, True), (torch.float32, False)]
)
def test_the_cpu_decoder_folds_masks_in_half_precision_alone(dtype: torch.dtype, folds: bool) -> None:
    decoder = CpuDecoder(make_runner(SMALL, dtype=dtype).model)
    assert (decoder._folded_masks is not None) is folds
