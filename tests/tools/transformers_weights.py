"""Weights that transformers itself writes, in the server's own loader, against the same weights in Meta's form.

Needs the server's requirements beside transformers. `make bench BENCH=--help` installs both; then
`.bench/venv/bin/python -m tests.tools.transformers_weights`.
"""

import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import httpx
import numpy as np
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Sam2Model, Sam2VideoConfig, Sam2VideoModel

from model.checkpoints.download import BUILTIN_PATH
from model.checkpoints.files import read_tensors
from model.checkpoints.names import with_released_names
from model.checkpoints.parameters import recognise
from model.errors import CheckpointError
from model.network.config import BUILTIN
from model.runner import Sam2Runner, load_runner
from model.types import Pixels, Prediction, Prompt
from tests.bench.peer_transformers import Transformers, transformers_config
from tests.bench.weights import golden_state, transformers_state
from tests.server import ROOT, running_server
from tests.tools.checking import SCENE, Checks

PROMPTS = (
    Prompt(points=((300.0, 200.0),), labels=(1,), multimask_output=True),
    Prompt(points=((300.0, 200.0), (80.0, 60.0)), labels=(1, 0)),
    Prompt(box=(150.0, 90.0, 420.0, 330.0)),
)
TINY = "sam2.1_hiera_tiny"


def image_model(state: dict[str, Tensor], variant: str) -> Sam2Model:
    """Return transformers' model with these weights, given in Meta's form."""
    model = Sam2Model(transformers_config(variant))
    model.load_state_dict({name: x.clone() for name, x in transformers_state(state).items()}, strict=True)
    return model


def video_model(state: dict[str, Tensor], variant: str, *, release: str) -> Sam2VideoModel:
    """Return transformers' video model with these weights; its memory is random."""
    config = transformers_config(variant)
    model = Sam2VideoModel(
        Sam2VideoConfig(
            vision_config=config.vision_config,
            prompt_encoder_config=config.prompt_encoder_config,
            enable_occlusion_spatial_embedding=release == "sam2.1",
            enable_temporal_pos_encoding_for_object_pointers=release == "sam2.1",
        )
    )
    names = {name: x.clone() for name, x in transformers_state(state).items()}
    assert not model.load_state_dict(names, strict=False).unexpected_keys
    return model


def predictions(runner: Sam2Runner, picture: Pixels) -> list[Prediction]:
    """Return what a model says to PROMPTS."""
    embedding = runner.encode([picture])[0]
    return runner.decode([(embedding, prompt) for prompt in PROMPTS])


def are_equal(one: Sequence[Prediction], other: Sequence[Prediction]) -> bool:
    """Whether all logits and scores are the same numbers."""
    return all(
        np.array_equal(np.asarray(a.logits), np.asarray(b.logits)) and np.array_equal(a.iou, b.iou)
        for a, b in zip(one, other, strict=True)
    )


def check_forms(checks: Checks, folder: Path, picture: Pixels) -> None:
    """Compare each form that transformers writes with the built-in model's own file."""
    state = load_file(BUILTIN_PATH)
    expected = load_runner(BUILTIN, checkpoint=BUILTIN_PATH, device="cpu", dtype="float32")
    model, video = image_model(state, BUILTIN), video_model(state, BUILTIN, release="sam2.1")

    def old_form(path: Path) -> None:
        """As before transformers 5: one of the two position matrices, in a pickle."""
        path.mkdir()
        weights = model.state_dict()
        del weights["prompt_encoder.shared_embedding.positional_embedding"]
        torch.save(weights, path / "pytorch_model.bin")

    forms: dict[str, Callable[[Path], object]] = {
        "Sam2Model.save_pretrained": model.save_pretrained,
        "the same in parts": lambda path: model.save_pretrained(path, max_shard_size="3MB"),
        "a state dict of Sam2Model": old_form,
    }
    for number, (what, write) in enumerate(forms.items()):
        path = folder / str(number)
        write(path)
        runner = load_runner(BUILTIN, checkpoint=path, device="cpu", dtype="float32")
        checks.check(f"{what}: fingerprint", runner.fingerprint == expected.fingerprint)
        same = are_equal(predictions(runner, picture), predictions(expected, picture))
        checks.check(f"{what}: masks and scores are equal", same)
    one_file = load_runner(
        BUILTIN, checkpoint=folder / "0" / "model.safetensors", device="cpu", dtype="float32"
    )
    checks.check("the file within the folder", one_file.fingerprint == expected.fingerprint)

    model.to(torch.float16).save_pretrained(folder / "half")
    half = {name: tensor.half() for name, tensor in state.items()}
    save_file(half, folder / "half.safetensors")
    pair = [load_runner(BUILTIN, checkpoint=folder / name, device="cpu", dtype="float32").fingerprint
            for name in ("half", "half.safetensors")]  # fmt: skip
    checks.check("saved in half precision", pair[0] == pair[1])
    video.save_pretrained(folder / "video")
    checks.check("the built-in model has no video memory", recognise(folder / "video") == ())


def check_released(checks: Checks, folder: Path) -> None:
    """Check names, shapes and the variant of a released size, with golden weights."""
    state = golden_state(TINY)
    shapes = json.loads((ROOT / "tests" / "golden" / f"{TINY}.json").read_text())["shapes"]
    for release in ("sam2.1", "sam2"):
        video_model(state, TINY, release=release).save_pretrained(folder / release)
        released, _ = with_released_names(read_tensors(folder / release))
        found = {name: list(tensor.shape) for name, tensor in released.items()}
        wanted = {
            name: shape
            for name, shape in shapes.items()
            if release == "sam2.1" or not name.startswith(("no_obj_embed_spatial", "obj_ptr_tpos_proj"))
        }
        checks.check(f"Sam2VideoModel of {release}: Meta's names and shapes", found == wanted, len(found))
        checks.check(f"{release}: recognised", recognise(folder / release) == (f"{release}_hiera_tiny",))
        equal = all(torch.equal(released[name], tensor) for name, tensor in state.items())
        checks.check(f"{release}: values", equal)
    try:
        load_runner("sam2.1_hiera_large", checkpoint=folder / "sam2.1", device="cpu", dtype="float32")
    except CheckpointError as error:
        said = "which SAM2_MODEL says" in str(error) and f"set SAM2_MODEL={TINY}" in str(error)
        checks.check("under SAM2_MODEL=sam2.1_hiera_large", said, error)
    else:
        checks.check("under SAM2_MODEL=sam2.1_hiera_large", False, "loaded")


def check_transformers(checks: Checks, folder: Path, picture: Pixels) -> None:
    """Compare our scores with those that transformers computes from the weights that it wrote.

    With golden weights of a released size: transformers cannot run the built-in model's trunk, whose third stage
    begins with global attention.
    """
    state = golden_state(TINY)
    image_model(state, TINY).save_pretrained(folder / "tiny")
    ours = load_runner(TINY, checkpoint=folder / "tiny", device="cpu", dtype="float32")
    theirs = Transformers(state, [picture], name="transformers", dtype=torch.float32, variant=TINY)
    names = ("high_res_feats_0", "high_res_feats_1", "image_embed")
    maps = dict(zip(names, (tensor.numpy() for tensor in theirs.encode(picture)), strict=True))
    theirs.take([maps])
    for prompt, mine in zip(PROMPTS, predictions(ours, picture), strict=True):
        if len(prompt.points) > 1:
            continue  # the peer takes points or a box
        gap = float(np.abs(np.sort(theirs.decode(0, [prompt])[0].iou) - np.sort(mine.iou)).max())
        checks.check(f"transformers' own scores, {len(mine.iou)} masks", gap < 2e-3, f"{gap:.1e}")


def check_server(checks: Checks, folder: Path) -> None:
    """Start a server on a folder, without saying which model it is."""
    settings = {"checkpoint": str(folder / "0"), "dtype": "float32"}
    with tempfile.TemporaryDirectory() as log, running_server(Path(log), **settings) as url:
        said = httpx.get(f"{url}/model", trust_env=False).json()
    checks.check("a server says the variant", said["variant"] == BUILTIN, said["model"])


def main() -> None:
    """Run all checks."""
    checks = Checks()
    print(f"transformers {transformers.__version__}, torch {torch.__version__}")
    picture = np.array(Image.open(SCENE).convert("RGB"))
    with tempfile.TemporaryDirectory() as name:
        check_forms(checks, Path(name), picture)
        check_transformers(checks, Path(name), picture)
        check_server(checks, Path(name))
        check_released(checks, Path(name))
    checks.end()


if __name__ == "__main__":
    main()
