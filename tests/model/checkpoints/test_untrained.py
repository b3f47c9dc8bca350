"""Random weights: the same everywhere, and scaled so that masks are neither empty nor full."""

import hashlib
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from model.checkpoints.parameters import untrained_parameters
from model.network.config import VARIANTS
from model.network.sam2 import Sam2
from model.types import Prompt
from tests.golden.recipe import image
from tests.model.checkpoints.weight_files import CPU, image_half, on_meta, released_shapes


def untrained(shapes: Mapping[str, tuple[int, ...]], *, seed: int = 0) -> tuple[dict[str, Tensor], str]:
    module = on_meta(shapes)
    fingerprint = untrained_parameters(module, device=CPU, dtype=torch.float32, seed=seed)
    return module.state_dict(), fingerprint


def test_untrained_weights_are_the_same_everywhere():
    weights, fingerprint = untrained({"a.weight": (2, 3)})
    expected = [[-0.1391635, -1.391424, -0.06216975], [-0.007300232, -0.6174951, 0.1963233]]
    np.testing.assert_allclose(weights["a.weight"].numpy(), expected, rtol=1e-6)
    assert fingerprint == hashlib.sha256(b"untrained-0\na.weight (2, 3)\n").hexdigest()


def test_untrained_weights_depend_on_seed_and_name():
    shapes = {"a.weight": (8, 8), "b.weight": (8, 8)}
    weights, fingerprint = untrained(shapes)
    assert not torch.equal(weights["a.weight"], weights["b.weight"])
    others, other_fingerprint = untrained(shapes, seed=1)
    assert not torch.equal(weights["a.weight"], others["a.weight"])
    assert fingerprint != other_fingerprint


def test_untrained_weights_are_scaled_for_what_they_do():
    shapes = image_half(released_shapes("sam2.1_hiera_tiny"))
    weights, _ = untrained(shapes)
    assert weights.keys() == shapes.keys()
    for name, deviation in {
        "image_encoder.trunk.pos_embed": 0.5,
        "image_encoder.trunk.blocks.3.attn.qkv.weight": 192**-0.5,
        "image_encoder.trunk.patch_embed.proj.weight": 147**-0.5,
        "no_mem_embed": 0.5,
        "sam_prompt_encoder.point_embeddings.2.weight": 0.5,
        "sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix": 1.0,
        "sam_mask_decoder.mask_tokens.weight": 0.5,
        "sam_mask_decoder.transformer.layers.0.cross_attn_token_to_image.q_proj.weight": 256**-0.5,
        "sam_mask_decoder.output_upscaling.0.weight": 256**-0.5,
    }.items():
        assert weights[name].std().item() == pytest.approx(deviation, rel=0.2), name
    assert torch.equal(weights["image_encoder.trunk.blocks.0.norm1.weight"], torch.ones(96))
    assert torch.equal(weights["image_encoder.trunk.blocks.0.norm1.bias"], torch.zeros(96))


def test_untrained_weights_take_the_dtype():
    module = on_meta()
    untrained_parameters(module, device=CPU, dtype=torch.float16)
    assert {parameter.dtype for parameter in module.parameters()} == {torch.float16}
    assert {buffer.dtype for buffer in module.buffers()} == {torch.float32}


def test_untrained_masks_are_neither_empty_nor_full():
    from model.runner import Sam2Runner

    with torch.device("meta"):
        module = Sam2(replace(VARIANTS["sam2.1_hiera_tiny"], image_size=256))
    fingerprint = untrained_parameters(module, device=CPU, dtype=torch.float32)
    runner = Sam2Runner(module, name="tiny", weights_fingerprint=fingerprint)
    [embedding] = runner.encode([image("untrained", 300, 200)])
    clicks = [(30.0, 40.0), (150.0, 100.0), (280.0, 190.0)]
    jobs = [(embedding, Prompt(points=(click,), labels=(1,))) for click in clicks]
    for prediction in runner.decode(jobs):
        areas = (prediction.logits > 0).mean(axis=(1, 2))
        assert ((areas > 0.01) & (areas < 0.99)).all()
        assert np.abs(prediction.logits).max() < 100
