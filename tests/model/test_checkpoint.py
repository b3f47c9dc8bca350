"""Files of weights as they come: whole, foreign, cut, hostile; and what is said about each."""

import hashlib
import json
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from model.checkpoint import VIDEO_MEMORY_PREFIXES, identify, load_parameters, untrained_parameters
from model.config import BUILTIN, VARIANTS
from model.errors import CheckpointError
from model.sam2 import Sam2
from model.types import Prompt
from tests.golden.recipe import image

REPOSITORY = Path(__file__).parents[2]
GOLDEN = REPOSITORY / "tests" / "golden"
CPU = torch.device("cpu")


class Box(nn.Module):
    """A stand-in network: whatever parameters, and one buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.norm = nn.LayerNorm(2)
        self.register_buffer("grid", torch.zeros(1, 4))


class Network(nn.Module):
    """A network with parameters of the given names and shapes."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        super().__init__()
        for name, shape in shapes.items():
            *folders, leaf = name.split(".")
            module: nn.Module = self
            for folder in folders:
                if folder not in module._modules:
                    module.add_module(folder, nn.Module())
                module = module.get_submodule(folder)
            module.register_parameter(leaf, nn.Parameter(torch.zeros(shape)))


def on_meta(shapes: Mapping[str, tuple[int, ...]] | None = None) -> nn.Module:
    with torch.device("meta"):
        return Box() if shapes is None else Network(shapes)


def box_weights() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {name: torch.randn(t.shape, generator=generator) for name, t in on_meta().state_dict().items()}


def released_shapes(variant: str) -> dict[str, tuple[int, ...]]:
    shapes = json.loads((GOLDEN / f"{variant}.json").read_text())["shapes"]
    return {name: tuple(shape) for name, shape in shapes.items()}


def image_half(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    return {name: shape for name, shape in shapes.items() if not name.startswith(VIDEO_MEMORY_PREFIXES)}


def hollow(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Zeros of any shape that take a few bytes on disk."""
    zero = torch.zeros(1)
    return {name: zero.expand(shape) for name, shape in shapes.items()}


def load(module: nn.Module, path: Path, *, variant: str = "sam2.1_hiera_tiny") -> str:
    return load_parameters(module, path, variant=variant, device=CPU, dtype=torch.float32)


def saved(weights: object, path: Path) -> Path:
    torch.save(weights, path)
    return path


# Files that fit


def write_released(weights: dict[str, Tensor], path: Path) -> None:
    torch.save({"model": weights}, path)


def write_bare(weights: dict[str, Tensor], path: Path) -> None:
    torch.save(weights, path)


def write_before_archives(weights: dict[str, Tensor], path: Path) -> None:
    torch.save({"model": weights}, path, _use_new_zipfile_serialization=False)


def write_safetensors(weights: dict[str, Tensor], path: Path) -> None:
    save_file(weights, path)


FORMATS = [write_released, write_bare, write_before_archives, write_safetensors]


@pytest.mark.parametrize("write", FORMATS)
def test_every_format_gives_the_values_and_one_fingerprint(tmp_path, write):
    weights = box_weights()
    write(weights, tmp_path / "weights")
    module = on_meta()
    fingerprint = load(module, tmp_path / "weights")
    for name, tensor in module.state_dict().items():
        torch.testing.assert_close(tensor, weights[name], rtol=0, atol=0)
    digest = hashlib.sha256()
    for name in sorted(weights):
        values = weights[name].numpy()
        digest.update(f"{name} {values.shape}\n".encode() + values.tobytes())
    assert fingerprint == digest.hexdigest()


def test_fingerprint_is_of_the_file_and_not_of_the_dtype(tmp_path):
    path = saved({"model": box_weights()}, tmp_path / "weights.pt")
    module = on_meta()
    fingerprint = load_parameters(module, path, variant="any", device=CPU, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in module.parameters()} == {torch.bfloat16}
    assert {buffer.dtype for buffer in module.buffers()} == {torch.float32}
    assert fingerprint == load(on_meta(), path)


def test_fingerprint_follows_every_value(tmp_path):
    weights = box_weights()
    before = load(on_meta(), saved(weights, tmp_path / "weights.pt"))
    weights["grid"][0, 3] += 1e-6
    assert load(on_meta(), saved(weights, tmp_path / "weights.pt")) != before


def test_half_precision_and_transposed_files_load(tmp_path):
    weights = {name: tensor.half() for name, tensor in box_weights().items()}
    weights["linear.weight"] = weights["linear.weight"].t().contiguous().t()
    module = on_meta()
    load(module, saved(weights, tmp_path / "weights.pt"))
    assert module.linear.weight.is_contiguous()
    torch.testing.assert_close(module.linear.weight.data, weights["linear.weight"].float())


def test_video_memory_is_skipped(tmp_path):
    extra = {
        f"{prefix}x" if prefix.endswith(".") else prefix: torch.zeros(2) for prefix in VIDEO_MEMORY_PREFIXES
    }
    path = saved({"model": box_weights() | extra}, tmp_path / "weights.pt")
    assert load(on_meta(), path) == load(on_meta(), saved(box_weights(), tmp_path / "bare.pt"))


def test_parameters_keep_whether_they_are_trained(tmp_path):
    module = on_meta().requires_grad_(False)
    load(module, saved({k: nn.Parameter(v) for k, v in box_weights().items()}, tmp_path / "weights.pt"))
    assert not any(parameter.requires_grad for parameter in module.parameters())


@pytest.mark.parametrize("write", FORMATS)
def test_nothing_refers_to_the_file_afterwards(tmp_path, write):
    """A mapping left behind would kill the server when somebody truncates the file."""
    path = tmp_path / "weights"
    write(box_weights(), path)
    module = on_meta()
    load(module, path)
    assert str(path) not in Path("/proc/self/maps").read_text()
    assert len(module.state_dict()) == 5


def test_the_model_in_this_repository_takes_a_released_file(tmp_path):
    with torch.device("meta"):
        module = Sam2(VARIANTS["sam2.1_hiera_tiny"])
    load(module, saved({"model": hollow(released_shapes("sam2.1_hiera_tiny"))}, tmp_path / "weights.pt"))
    assert {tensor.device for tensor in module.state_dict().values()} == {CPU}


MEASURE_MEMORY = """
import json, sys, threading, time
from pathlib import Path
import torch
from tests.model.test_checkpoint import image_half, load, on_meta, released_shapes, saved
from tests.golden.recipe import weight
from safetensors.torch import save_file

def anonymous_memory():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))

class Sampler(threading.Thread):
    def run(self):
        self.peak, self.stop = 0, False
        while not self.stop:
            self.peak = max(self.peak, anonymous_memory())
            time.sleep(0.001)

shapes = released_shapes("sam2.1_hiera_tiny")
folder = Path(sys.argv[1])
weights = {name: torch.from_numpy(weight(name, shape)) for name, shape in shapes.items()}
saved({"model": weights}, folder / "tiny.pt")
save_file(weights, folder / "tiny.safetensors")
del weights
report = {"weights": sum(4 * torch.Size(shape).numel() for shape in image_half(shapes).values())}
for name in ("tiny.pt", "tiny.safetensors"):
    module = on_meta(image_half(shapes))
    before = anonymous_memory()
    sampler = Sampler()
    sampler.start()
    fingerprint = load(module, folder / name)
    after = anonymous_memory()
    sampler.stop = True
    sampler.join()
    report[name] = {"peak": sampler.peak - before, "held": after - before, "fingerprint": fingerprint}
    del module
print(json.dumps(report))
"""


def test_weights_are_in_memory_once(tmp_path):
    """The tiny model in its released format; sampled, as the kernel keeps no peak of anonymous memory."""
    run = subprocess.run(
        [sys.executable, "-c", MEASURE_MEMORY, str(tmp_path)],
        cwd=REPOSITORY,
        # A fixed threshold makes the C library hand freed tensors back at once, as the measure assumes.
        env={"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    report = json.loads(run.stdout)
    for name in ("tiny.pt", "tiny.safetensors"):
        assert report[name]["held"] > 0.9 * report["weights"]  # else the measure is blind
        assert report[name]["peak"] < 1.2 * report["weights"]  # the file itself is 1.24 times as large
    assert report["tiny.pt"]["fingerprint"] == report["tiny.safetensors"]["fingerprint"]


# Files that do not fit


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


# Files that are no checkpoints


class Hostile:
    """Creates a file when unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("archive", [True, False])
def test_code_in_a_file_does_not_run(tmp_path, archive):
    marker, path = tmp_path / "it-ran", tmp_path / "weights.pt"
    if archive:
        torch.save({"model": box_weights(), "extra": Hostile(marker)}, path)
    else:
        path.write_bytes(pickle.dumps({"model": Hostile(marker)}, protocol=2))
    with pytest.raises(CheckpointError, match="could run code"):
        load(on_meta(), path)
    assert not marker.exists()


@pytest.mark.parametrize("write", FORMATS)
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_a_truncated_file_is_refused(tmp_path, write, part):
    path = tmp_path / "weights"
    write(box_weights(), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    with pytest.raises(CheckpointError, match="damaged"):
        load(on_meta(), path)


@pytest.mark.parametrize("write", FORMATS)
def test_damage_is_an_error_of_ours_or_harmless(tmp_path, write):
    path = tmp_path / "weights"
    write(box_weights(), path)
    content = path.read_bytes()
    dice = np.random.default_rng(0)
    refused = 0
    for _ in range(50):
        damaged = bytearray(content)
        for _ in range(3):
            damaged[dice.integers(len(damaged))] = dice.integers(256)
        path.write_bytes(damaged)
        try:
            load(on_meta(), path)
        except CheckpointError:
            refused += 1
    assert refused > 0


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04", b"\x80", b"<!DOCTYPE html><html>404</html>", bytes(1000)]
)
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "weights.pt"
    path.write_bytes(content)
    with pytest.raises(
        CheckpointError, match=r"weights.pt .*SAM2_CHECKPOINT|weights.pt holds something besides"
    ):
        load(on_meta(), path)


def test_any_other_archive_is_refused(tmp_path):
    path = tmp_path / "weights.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("word/document.xml", "<xml/>")
    with pytest.raises(CheckpointError, match="is no checkpoint"):
        load(on_meta(), path)


@pytest.mark.parametrize(
    ("content", "found"),
    [([1, 2], "a list"), ({"epoch": 3}, "the keys epoch"), ({"model": "tiny"}, "the keys model")],
)
def test_a_file_without_weights_says_what_it_has(tmp_path, content, found):
    with pytest.raises(CheckpointError, match=f"holds no weights.*found {found}"):
        load(on_meta(), saved(content, tmp_path / "weights.pt"))


def test_what_cannot_be_read_says_why(tmp_path):
    with pytest.raises(CheckpointError, match=r"No such file.*SAM2_CHECKPOINT"):
        load(on_meta(), tmp_path / "absent.pt")
    with pytest.raises(CheckpointError, match="not a regular file"):
        load(on_meta(), tmp_path)
    with pytest.raises(CheckpointError, match="Input/output error"):
        load(on_meta(), Path("/proc/self/mem"))  # a regular file whose first bytes cannot be read


# Random weights


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
