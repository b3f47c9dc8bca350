"""Files of weights that do not fit: what is missing or too much, and which model they look like."""

import pytest
import torch

from model.checkpoints.parameters import identify, load_parameters
from model.errors import CheckpointError
from model.network.config import BUILTIN, VARIANTS
from model.network.sam2 import Sam2
from tests.model.checkpoints.weight_files import (
    CPU,
    box_weights,
    hollow,
    image_half,
    load,
    on_meta,
    released_shapes,
    saved,
)


def test_says_how_many_and_which_parameters_do_not_fit(tmp_path):
    weights = box_weights()
    del weights["norm.weight"], weights["norm.bias"]
    weights |= {f"extra.{i}": torch.zeros(2) for i in range(5)}
    weights["grid"] = torch.zeros(1, 5)
    weights["linear.bias"] = torch.zeros(2, dtype=torch.int64)
    module = on_meta()
    with pytest.raises(CheckpointError) as caught:
        load(module, saved(weights, tmp_path / "weights.pt"))
    message = str(caught.value)
    assert "does not fit sam2.1_hiera_tiny" in message
    assert "2 missing: norm.weight [2], norm.bias [2];" in message
    assert "5 unexpected: extra.0 [2], extra.1 [2], extra.2 [2], ...;" in message
    assert "2 of another shape: " in message
    assert "grid is [1, 5] float32 in the file, [1, 4] floating point in the model" in message
    assert "linear.bias is [2] int64 in the file" in message
    assert "none of the released SAM 2 models" in message
    assert all(tensor.is_meta for tensor in module.state_dict().values())


@pytest.mark.filterwarnings(
    "ignore:(Validating sparse tensor invariants|Sparse invariant checks)"
)  # torch 2.14 says that it takes time, and 2.11 that it is not done
def test_sparse_weights_do_not_fit(tmp_path):
    weights = box_weights()
    weights["grid"] = weights["grid"].to_sparse()
    with pytest.raises(CheckpointError, match="1 of another shape: grid"):
        load(on_meta(), saved(weights, tmp_path / "weights.pt"))


def test_identify_knows_the_built_in_model():
    with torch.device("meta"):
        shapes = {name: tuple(x.shape) for name, x in Sam2(VARIANTS[BUILTIN]).state_dict().items()}
    assert identify(shapes) == (BUILTIN,)
    assert identify(shapes | {"memory_encoder.fuser": (1,)}) == ()


@pytest.mark.parametrize("variant", sorted(VARIANTS.keys() - {BUILTIN}))
def test_identify_knows_every_variant(variant):
    trunk = VARIANTS[variant].trunk
    shapes: dict[str, tuple[int, ...]] = {
        "image_encoder.trunk.patch_embed.proj.weight": (trunk.embed_dim, 3, 7, 7)
    }
    shapes |= {f"image_encoder.trunk.blocks.{i}.norm1.weight": (1,) for i in range(trunk.depth)}
    release, _, size = variant.partition("_")
    assert identify(shapes) == (f"sam2.1_{size}", f"sam2_{size}")
    video_memory = {"memory_encoder.fuser": (1,)}
    if release == "sam2.1":
        video_memory["no_obj_embed_spatial"] = (1, 64)
    assert identify(shapes | video_memory) == (variant,)


@pytest.mark.parametrize("variant", ["sam2.1_hiera_tiny", "sam2_hiera_base_plus"])
def test_identify_knows_the_released_files(variant):
    assert identify(released_shapes(variant)) == (variant,)


def test_identify_knows_no_strangers():
    assert identify({}) == ()
    assert identify({"image_encoder.trunk.patch_embed.proj.weight": (768, 3, 16, 16)}) == ()


def test_another_variant_is_named(tmp_path):
    path = saved({"model": hollow(released_shapes("sam2_hiera_base_plus"))}, tmp_path / "weights.pt")
    module = on_meta(image_half(released_shapes("sam2.1_hiera_tiny")))
    with pytest.raises(
        CheckpointError, match="It looks like sam2_hiera_base_plus: set SAM2_MODEL=sam2_hiera_base_plus"
    ):
        load(module, path)


def test_another_release_is_refused_though_the_image_half_fits(tmp_path):
    shapes = released_shapes("sam2.1_hiera_tiny")
    path = saved({"model": hollow(shapes)}, tmp_path / "weights.pt")
    with pytest.raises(CheckpointError, match=r"another release.*set SAM2_MODEL=sam2.1_hiera_tiny"):
        load(on_meta(image_half(shapes)), path, variant="sam2_hiera_tiny")


@pytest.mark.parametrize("variant", ["sam2.1_hiera_tiny", "sam2_hiera_tiny"])
def test_an_image_half_alone_can_be_of_either_release(tmp_path, variant):
    shapes = image_half(released_shapes("sam2.1_hiera_tiny"))
    path = saved(hollow(shapes), tmp_path / "weights.pt")
    assert len(load(on_meta(shapes), path, variant=variant)) == 64


def test_a_changed_file_of_the_right_variant_says_so(tmp_path):
    shapes = image_half(released_shapes("sam2.1_hiera_tiny"))
    path = saved(hollow(shapes) | {"adapter.weight": torch.zeros(1)}, tmp_path / "weights.pt")
    with pytest.raises(
        CheckpointError, match=r"1 unexpected: adapter.weight.*Its trunk is that of sam2.1_hiera_tiny"
    ):
        load(on_meta(shapes), path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused_and_named(tmp_path, value):
    weights = box_weights()
    weights["linear.weight"][1, 2] = value
    module = on_meta()
    with pytest.raises(CheckpointError, match=r"NaN or infinite, in 1 of its parameters: linear\.weight\. "):
        load(module, saved({"model": weights}, tmp_path / "weights.pt"))
    assert module.linear.weight.is_meta


def test_values_that_the_precision_cannot_hold_name_one_that_can(tmp_path):
    weights = box_weights()
    weights["norm.bias"][0] = 1e6
    path = saved({"model": weights}, tmp_path / "weights.pt")
    with pytest.raises(CheckpointError, match=r"too large for float16.*norm\.bias\. Set SAM2_DTYPE=bfloat16"):
        load_parameters(on_meta(), path, variant="any", device=CPU, dtype=torch.float16)
    load_parameters(on_meta(), path, variant="any", device=CPU, dtype=torch.bfloat16)
