"""Roboflow's client inference-sdk, unmodified, against a server of this checkout; with httpx what it lacks."""

import asyncio
import base64
import io
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from inference_sdk import InferenceConfiguration, InferenceHTTPClient
from inference_sdk.http.errors import HTTPCallErrorError
from PIL import Image

from tests.tools.checking import (
    SCENE,
    Checks,
    Reference,
    agreement,
    filled,
    large_jpeg,
    print_times,
    serving,
)

KEY, OTHER, WRONG = (f"{name}-0123456789abcdef" for name in ("anna", "bert", "wrong"))


def prompt(x: float, y: float) -> dict[str, Any]:
    return {"points": [{"x": x, "y": y, "positive": True}]}


def in_pixels(prediction: dict[str, Any], like: np.ndarray) -> np.ndarray:
    """The mask of a prediction in polygons, whose points are the pixels of the border."""
    return filled([[[x + 0.5, y + 0.5] for x, y in ring] for ring in prediction["masks"]], *like.shape)


@contextmanager
def refused(checks: Checks, what: str, status: int, words: str) -> Iterator[None]:
    """Check that the block ends with the client's own error, with our words in it."""
    try:
        yield
    except HTTPCallErrorError as error:
        said = str(error.api_message)
        checks.check(f"{what}: {status}", error.status_code == status and words in said, said)
    else:
        checks.check(f"{what}: {status}", holds=False)


def main() -> None:
    """Run all checks."""
    checks = Checks()
    print(f"inference-sdk {version('inference-sdk')}")
    with serving(api_keys=f"anna:{KEY},bert:{OTHER}") as (url, _):
        reference = Reference(url, KEY)
        check_masks(checks, url, reference)
        check_keys(checks, url)
        check_raw(checks, url, reference)
    with serving(log_level="warning") as (url, _), tempfile.TemporaryDirectory() as folder:
        client = InferenceHTTPClient(api_url=url)
        file = Path(folder) / "large.jpg"

        def through_the_door(data: bytes) -> None:
            file.write_bytes(data)
            assert client.sam2_segment_image(
                str(file), prompts=[prompt(2000, 1500)], mask_input_format="rle"
            )["predictions"]

        data = large_jpeg()
        print_times(
            data,
            Reference(url),
            door=through_the_door,
            point=(2000, 1500),
            base64_bytes=len(data) * 4 // 3,
        )
    checks.end()


def check_masks(checks: Checks, url: str, reference: Reference) -> None:
    client = InferenceHTTPClient(api_url=url, api_key=KEY)
    image_id = reference.embed(SCENE.read_bytes())
    with Image.open(SCENE) as picture:
        width, height = picture.size
    x, y = width // 2, height // 2
    own = reference.decode(image_id, point_coords=[[x, y]], point_labels=[1], multimask_output=True)
    mask = reference.mask(image_id, point_coords=[[x, y]], point_labels=[1], multimask_output=True)
    for name, call in (
        ("sam2_segment_image", client.sam2_segment_image),
        ("sam3_visual_segment", client.sam3_visual_segment),
    ):
        reply = call(str(SCENE), prompts=[prompt(x, y)], mask_input_format="rle")
        (found,) = reply["predictions"]
        checks.check(f"{name}: the RLE is that of /decode", found["masks"] == own["rle"])
        checks.check(f"{name}: the confidence is its iou", found["confidence"] == own["iou"])
        (found,) = call(str(SCENE), prompts=[prompt(x, y)])["predictions"]
        equal = agreement(in_pixels(found, mask), mask)
        checks.check(f"{name}: polygons are the mask of /decode", equal > 0.9, f"IoU {equal:.3f}")
    box = [x // 2, y // 2, x + x // 2, y + y // 2]
    centred = {"box": {"x": x, "y": y, "width": box[2] - box[0], "height": box[3] - box[1]}}
    both = client.sam2_segment_image(
        str(SCENE), prompts=[centred, prompt(x, y)], multimask_output=False, mask_input_format="rle"
    )["predictions"]
    expected = [
        reference.decode(image_id, box=box, multimask_output=False)["rle"],
        reference.decode(image_id, point_coords=[[x, y]], point_labels=[1], multimask_output=False)["rle"],
    ]
    checks.check("a box by its centre, and two prompts", [each["masks"] for each in both] == expected)
    many = client.sam2_segment_image([str(SCENE)] * 3, prompts=[prompt(x, y)])
    checks.check("a list of pictures", [len(each["predictions"]) for each in many] == [1, 1, 1])
    with Image.open(SCENE) as picture:
        for what, sent in (("a PIL picture", picture), ("an array", np.asarray(picture)[:, :, ::-1].copy())):
            (found,) = client.sam2_segment_image(sent, prompts=[prompt(x, y)])["predictions"]
            equal = agreement(in_pixels(found, mask), mask)
            checks.check(f"{what}, which the client encodes again", equal > 0.8, f"IoU {equal:.3f}")
    checks.check("no prompts", len(client.sam2_segment_image(str(SCENE))["predictions"]) == 1)
    later = asyncio.run(
        client.sam2_segment_image_async(str(SCENE), prompts=[prompt(x, y)], mask_input_format="rle")
    )
    checks.check("sam2_segment_image_async", later["predictions"][0]["masks"] == own["rle"])
    named = client.sam3_embed_image(str(SCENE), image_id="scene")
    checks.check("sam3_embed_image", named["image_id"] == "scene" and named["time"] > 0)
    with refused(checks, "a point far outside", 422, "too far outside the picture"):
        client.sam2_segment_image(str(SCENE), prompts=[prompt(1e6, 1)])
    with refused(checks, "a prompt without points and box", 422, "it is empty"):
        client.sam2_segment_image(str(SCENE), prompts=[{}])
    with refused(checks, "an unknown format", 422, "format"):
        client.sam2_segment_image(str(SCENE), prompts=[prompt(x, y)], mask_input_format="coco")
    with refused(checks, "text prompts of SAM 3", 501, "not supported"):
        client.sam3_concept_segment(str(SCENE), prompts=[{"type": "text", "text": "dog"}])


def check_keys(checks: Checks, url: str) -> None:
    for transport in ("legacy", "header", "both"):
        client = InferenceHTTPClient(api_url=url, api_key=KEY)
        client.configure(InferenceConfiguration(api_key_transport=transport))
        found = client.sam2_segment_image(str(SCENE), prompts=[prompt(9, 9)])
        checks.check(f"a key by the transport {transport!r}", len(found["predictions"]) == 1)
    with refused(checks, "no key", 401, "requires an API key"):
        InferenceHTTPClient(api_url=url).sam2_segment_image(str(SCENE), prompts=[prompt(9, 9)])
    large = np.random.default_rng(1).integers(0, 255, (3000, 4000, 3), np.uint8)  # 20 MB of base64
    with refused(checks, "a wrong key with a large picture", 401, "not valid"):
        InferenceHTTPClient(api_url=url, api_key=WRONG).sam2_segment_image(large, prompts=[prompt(9, 9)])


def check_raw(checks: Checks, url: str, reference: Reference) -> None:
    """What the client has no call for: forms of prompts, ids, binary answers, keys in the query."""
    with httpx.Client(base_url=url, timeout=60, trust_env=False, params={"api_key": KEY}) as http:
        data, other = SCENE.read_bytes(), (SCENE.parent / "4.jpg").read_bytes()

        def post(path: str, file: bytes, **fields: Any) -> httpx.Response:
            picture = {"type": "base64", "value": base64.b64encode(file).decode()}
            return http.post(path, json={"image": picture, **fields}).raise_for_status()

        for file in (data, other):
            post("/sam2/embed_image", file, image_id="name")
            found = post(
                "/sam2/segment_image", file, image_id="name", prompts=prompt(99, 99), format="rle"
            ).json()["predictions"]
            own = reference.decode(
                reference.embed(file), point_coords=[[99, 99]], point_labels=[1], multimask_output=True
            )
            checks.check(
                "an image_id that comes back gets its own picture's mask", found[0]["masks"] == own["rle"]
            )
        masks = [
            post("/sam2/segment_image", data, prompts=form, format="rle").json()["predictions"][0]["masks"]
            for form in ({"prompts": [prompt(99, 99)]}, [prompt(99, 99)], prompt(99, 99))
        ]
        checks.check("prompts in three forms", masks[0] == masks[1] == masks[2])
        reply = post("/sam2/segment_image", data, prompts=prompt(99, 99), format="binary")
        with np.load(io.BytesIO(reply.content)) as npz:
            own_mask = reference.mask(
                reference.embed(data), point_coords=[[99, 99]], point_labels=[1], multimask_output=True
            )
            equal = agreement(npz["masks"][0] > 0, own_mask)
            checks.check("binary logits above zero are the mask", equal > 0.999, f"IoU {equal:.4f}")


if __name__ == "__main__":
    main()
