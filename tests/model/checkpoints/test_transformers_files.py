"""Weights as transformers saves them: its names, folders, parts and config.json.

The names come from tests/bench/weights.py, which transformers itself accepts; tests/tools/transformers_weights.py
has it write real files.
"""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.checkpoints.download import BUILTIN_PATH
from model.checkpoints.halves import video_shapes
from model.checkpoints.names import with_released_names
from model.checkpoints.parameters import load_parameters, recognise
from model.errors import CheckpointError
from model.network.config import BUILTIN, VARIANTS
from model.network.sam2 import Sam2
from model.runner import load_runner
from model.types import Prompt
from tests.bench.weights import transformers_state
from tests.model.checkpoints.weight_files import CPU, hollow, image_half, released_shapes, saved

TWIN = "shared_image_embedding.positional_embedding"
POSITIONS = "prompt_encoder.shared_embedding.positional_embedding"


@pytest.fixture(scope="module")
def converted() -> dict[str, Tensor]:
    """The built-in model's weights under transformers' names."""
    return {name: tensor.clone() for name, tensor in transformers_state(load_file(BUILTIN_PATH)).items()}


def fingerprint(path: Path, variant: str = BUILTIN) -> str:
    with torch.device("meta"):
        module = Sam2(VARIANTS[variant])
    beside = video_shapes(VARIANTS[variant])
    return load_parameters(module, path, variant=variant, device=CPU, dtype=torch.float32, beside=beside)


def config(**changes: object) -> str:
    """The part of a config.json that describes the built-in model's trunk, with changes."""
    trunk = {
        "blocks_per_stage": [1, 2, 5, 2],
        "window_size_per_stage": [8, 4, 16, 8],
        "global_attention_blocks": [3, 4, 5, 6, 7, 8, 9],
        "num_attention_heads_per_stage": [1, 2, 4, 8],
        "window_positional_embedding_background_size": [7, 7],
        "image_size": [448, 448],
    }
    return json.dumps({"model_type": "sam2", "vision_config": {"backbone_config": trunk | changes}})


def test_masks_are_those_of_the_same_weights_in_meta_s_form(tmp_path, converted):
    save_file(converted, tmp_path / "model.safetensors")
    picture = np.random.default_rng(0).integers(0, 255, (90, 120, 3), np.uint8)
    prompts = [Prompt(points=((60.0, 40.0),), labels=(1,)), Prompt(box=(10.0, 10.0, 90.0, 70.0))]
    predictions = []
    for path in (BUILTIN_PATH, tmp_path):
        runner = load_runner(BUILTIN, checkpoint=path, device="cpu", dtype="float32")
        embedding = runner.encode([picture])[0]
        predictions.append((runner.fingerprint, runner.decode([(embedding, prompt) for prompt in prompts])))
    (expected_name, expected), (name, got) = predictions
    assert name == expected_name
    for ours, theirs in zip(got, expected, strict=True):
        np.testing.assert_array_equal(ours.iou, theirs.iou)
        np.testing.assert_array_equal(np.asarray(ours.logits), np.asarray(theirs.logits))


@pytest.mark.parametrize("dropped", [TWIN, POSITIONS])
def test_one_of_the_two_position_matrices_is_enough(tmp_path, converted, dropped):
    """Older versions of transformers store only one of them."""
    weights = {name: tensor for name, tensor in converted.items() if name != dropped}
    save_file(weights, tmp_path / "model.safetensors")
    assert fingerprint(tmp_path) == fingerprint(BUILTIN_PATH)


def test_two_position_matrices_that_differ_are_refused(tmp_path, converted):
    save_file(converted | {TWIN: converted[TWIN] + 1}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"differ.*not trained from released"):
        fingerprint(tmp_path)


def split(weights: dict[str, Tensor], folder: Path, parts: int = 3) -> Path:
    """Write weights as transformers splits large ones. Return the index."""
    weight_map = {
        name: f"model-{i % parts + 1:05}-of-{parts:05}.safetensors" for i, name in enumerate(weights)
    }
    for file in set(weight_map.values()):
        save_file({name: weights[name] for name in weights if weight_map[name] == file}, folder / file)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
    return index


@pytest.mark.parametrize("named", ["folder", "index"])
def test_weights_in_parts_are_read_whole(tmp_path, converted, named):
    index = split(converted, tmp_path)
    assert fingerprint(tmp_path if named == "folder" else index) == fingerprint(BUILTIN_PATH)


def test_a_part_that_is_missing_is_named(tmp_path, converted):
    split(converted, tmp_path)
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"1 of its 3 parts are not there: model-00002-of-00003"):
        fingerprint(tmp_path)


def test_an_index_reads_nothing_outside_its_folder(tmp_path, converted):
    folder = tmp_path / "folder"
    folder.mkdir()
    index = split(converted, folder)
    (folder / "model-00002-of-00003.safetensors").rename(tmp_path / "outside.safetensors")
    index.write_text(index.read_text().replace("model-00002-of-00003", "../outside"))
    with pytest.raises(CheckpointError, match=r"files outside its folder: \.\./outside"):
        fingerprint(folder)


@pytest.mark.parametrize("content", ["[]", "{", '{"weight_map": 3}', '{"weight_map": {"a": 3}}', "{}"])
def test_a_broken_index_is_refused(tmp_path, content):
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(CheckpointError, match="is not a checkpoint, or is damaged"):
        fingerprint(tmp_path)


def test_a_folder_with_one_file_of_weights_is_that_file(tmp_path):
    weights = hollow(released_shapes("sam2.1_hiera_tiny"))
    saved({"model": weights}, tmp_path / "sam2.1_hiera_tiny.pt")
    (tmp_path / "README.md").write_text("# SAM 2.1")
    assert recognise(tmp_path) == ("sam2.1_hiera_tiny",)
    saved({"model": weights}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match=r"several files of weights \(other\.pt, sam2.*\): name one"):
        recognise(tmp_path)


def test_a_pointer_of_git_lfs_says_what_to_do(tmp_path):
    (tmp_path / "model.safetensors").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    )
    with pytest.raises(CheckpointError, match=r"pointer of Git LFS.*git lfs pull"):
        recognise(tmp_path)


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_every_variant_is_recognised_in_transformers_names(tmp_path, variant):
    with torch.device("meta"):
        shapes = {name: tuple(x.shape) for name, x in Sam2(VARIANTS[variant]).state_dict().items()}
    path = saved(transformers_state(hollow(shapes)), tmp_path / "weights.pt")
    release, _, size = variant.partition("_")
    assert recognise(path) == ((BUILTIN,) if size == "" else (f"sam2.1_{size}", f"sam2_{size}"))
    assert release in ("sam2", "sam2.1", BUILTIN)


VIDEO = {
    "memory_temporal_positional_encoding": "maskmem_tpos_enc",
    "no_memory_positional_encoding": "no_mem_pos_enc",
    "no_object_pointer": "no_obj_ptr",
    "occlusion_spatial_embedding_parameter": "no_obj_embed_spatial",
    "temporal_positional_encoding_projection_layer.bias": "obj_ptr_tpos_proj.bias",
    "object_pointer_proj.proj_in.bias": "obj_ptr_proj.layers.0.bias",
    "object_pointer_proj.layers.0.weight": "obj_ptr_proj.layers.1.weight",
    "object_pointer_proj.proj_out.weight": "obj_ptr_proj.layers.2.weight",
    "mask_downsample.weight": "mask_downsample.weight",
    "memory_attention.layer_norm.bias": "memory_attention.norm.bias",
    "memory_attention.layers.3.layer_norm2.bias": "memory_attention.layers.3.norm2.bias",
    "memory_attention.layers.0.self_attn.o_proj.bias": "memory_attention.layers.0.self_attn.out_proj.bias",
    "memory_attention.layers.0.linear1.bias": "memory_attention.layers.0.linear1.bias",
    "memory_encoder.feature_projection.bias": "memory_encoder.pix_feat_proj.bias",
    "memory_encoder.projection.bias": "memory_encoder.out_proj.bias",
    "memory_encoder.mask_downsampler.layers.3.conv.bias": "memory_encoder.mask_downsampler.encoder.9.bias",
    "memory_encoder.mask_downsampler.layers.3.layer_norm.bias": "memory_encoder.mask_downsampler.encoder.10.bias",
    "memory_encoder.mask_downsampler.final_conv.bias": "memory_encoder.mask_downsampler.encoder.12.bias",
    "memory_encoder.memory_fuser.layers.1.depthwise_conv.bias": "memory_encoder.fuser.layers.1.dwconv.bias",
    "memory_encoder.memory_fuser.layers.1.pointwise_conv2.bias": "memory_encoder.fuser.layers.1.pwconv2.bias",
    "memory_encoder.memory_fuser.layers.1.layer_norm.bias": "memory_encoder.fuser.layers.1.norm.bias",
    "memory_encoder.memory_fuser.layers.1.scale": "memory_encoder.fuser.layers.1.gamma",
}
"""What Sam2VideoModel calls the parameters that only video needs, and what Meta calls them."""


def test_video_memory_has_meta_s_names_too(converted):
    released, is_of_transformers = with_released_names(converted | {name: torch.zeros(1) for name in VIDEO})
    assert is_of_transformers
    assert set(released) == set(load_file(BUILTIN_PATH)) | set(VIDEO.values())
    assert set(VIDEO.values()) <= released_shapes("sam2.1_hiera_tiny").keys()


@pytest.mark.parametrize("release", ["sam2", "sam2.1"])
def test_weights_of_the_video_model_load_and_tell_their_release(tmp_path, release):
    variant = f"{release}_hiera_tiny"
    weights = transformers_state(hollow(image_half(released_shapes("sam2.1_hiera_tiny"))))
    theirs = {name: ours for ours, name in VIDEO.items()}
    for name, tensor in hollow(video_shapes(VARIANTS[variant])).items():
        weights[theirs.get(name, name)] = tensor
    path = saved(weights, tmp_path / "weights.pt")
    assert recognise(path) == (variant,)
    assert fingerprint(path, variant)
    del weights["no_object_pointer"]
    with pytest.raises(CheckpointError, match="1 missing: no_obj_ptr"):
        fingerprint(saved(weights, path), variant)


def test_weights_of_another_size_name_both(tmp_path):
    with torch.device("meta"):
        shapes = {n: tuple(x.shape) for n, x in Sam2(VARIANTS["sam2.1_hiera_base_plus"]).state_dict().items()}
    path = saved(transformers_state(hollow(shapes)), tmp_path / "weights.pt")
    with pytest.raises(CheckpointError) as caught:
        fingerprint(path, "sam2.1_hiera_large")
    assert (
        "does not fit sam2.1_hiera_large, which SAM2_MODEL says: it has a trunk of 112 channels and 24 blocks. "
        "It looks like sam2.1_hiera_base_plus or sam2_hiera_base_plus: set SAM2_MODEL=sam2.1_hiera_base_plus, or "
        "SAM2_CHECKPOINT to weights of sam2.1_hiera_large." in str(caught.value)
    )


def test_a_config_that_says_the_same_is_fine(tmp_path, converted, caplog):
    save_file(converted, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(config())
    assert fingerprint(tmp_path) == fingerprint(tmp_path / "model.safetensors") == fingerprint(BUILTIN_PATH)
    assert not caplog.records


@pytest.mark.parametrize(
    ("key", "value"), [("window_size_per_stage", [8, 4, 14, 7]), ("global_attention_blocks", [5, 7, 9])]
)
def test_what_the_tensors_do_not_tell_is_compared(tmp_path, converted, key, value):
    save_file(converted, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(config(**{key: value}))
    for path in (tmp_path, tmp_path / "model.safetensors"):
        with pytest.raises(
            CheckpointError, match=rf"config\.json says {key}=.*and builtin has.*another network"
        ):
            fingerprint(path)


def test_another_picture_size_is_told(tmp_path, converted, caplog):
    save_file(converted, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(config(image_size=512))
    caplog.set_level(logging.WARNING)
    fingerprint(tmp_path)
    assert "image_size=512; builtin runs at 448 px" in caplog.text


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"vision_config": 3}', '{"vision_config": {}}'])
def test_a_config_of_something_else_says_nothing(tmp_path, converted, content):
    save_file(converted, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(content)
    assert fingerprint(tmp_path) == fingerprint(BUILTIN_PATH)
