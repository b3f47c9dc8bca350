"""`stretch`, with which a picture of more than 8 bits is read in another way and is another picture."""

import io
from base64 import b64encode
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app.settings import Settings
from model.types import Embedding, Pixels
from tests.fakes import FakeSegmenter, error, picture, serving

pytestmark = pytest.mark.usefixtures("either_service")

PNG = {"Content-Type": "image/png"}


class Seeing(FakeSegmenter):
    """Keeps the last picture."""

    pixels: Pixels

    def encode(
        self, images: Sequence[Pixels], *, between: Callable[[], None] = lambda: None
    ) -> list[Embedding]:
        self.pixels = images[-1]
        return super().encode(images, between=between)


async def test_a_picture_that_is_read_in_another_way_is_another_picture() -> None:
    async with serving() as served:
        data = picture()
        usual = (await served.embed(data)).json()
        for reply in (
            await served.client.post("/embed?stretch=percentile", content=data, headers=PNG),
            await served.client.post("/embed", files={"image": data}, data={"stretch": "percentile"}),
            await served.post("/embed", {"image": b64encode(data).decode(), "stretch": "percentile"}),
        ):
            assert reply.json()["image_id"] == f"{usual['image_id']}-percentile"
        assert reply.json()["cached"] is True
        assert len(served.segmenter.encoded) == 2
        again = await served.client.post("/embed?stretch=range", content=data, headers=PNG)
        assert again.json() == usual | {"cached": True}
        named = await served.client.post("/embed?stretch=none&image_id=a", content=data, headers=PNG)
        assert named.json()["image_id"] == "a"
        conflict = await served.client.post("/embed?image_id=a", content=data, headers=PNG)
        assert error(conflict) == (409, "image_id_conflict")
        wrong = await served.client.post("/embed?stretch=auto", content=data, headers=PNG)
        assert error(wrong) == (422, "validation_error")
        assert "percentile" in wrong.text


async def test_a_kept_upload_is_read_again_in_the_same_way(tmp_path: Path) -> None:
    deep = np.full((40, 60), 1000, np.uint16)
    deep[0, :30] = 500
    file = io.BytesIO()
    Image.fromarray(deep).save(file, "PNG")
    settings = Settings(workers=2, cache_dir=str(tmp_path), keep_uploads=True)
    async with serving(settings) as served:
        for stretch in ("none", "range"):
            reply = await served.client.post(
                f"/embed?image_id={stretch}&stretch={stretch}", content=file.getvalue(), headers=PNG
            )
            assert reply.status_code == 200
        await served.service.store.tend()
    for kept in Path(tmp_path).glob("embeddings/*/*.safetensors"):  # noqa: ASYNC240  # nothing else runs
        kept.unlink()
    seen = Seeing()
    async with serving(settings, seen) as served:
        for stretch, shade in (("none", 4), ("range", 255)):
            assert (await served.click(stretch)).status_code == 200
            assert seen.pixels[20, 30, 0] == shade


async def test_segment_and_its_form_take_it_too() -> None:
    async with serving() as served:
        files, click = {"image": picture()}, {"point_coords": "[[3, 4]]", "point_labels": "[1]"}
        reply = await served.client.post("/segment", files=files, data={**click, "stretch": "none"})
        assert reply.json()["image_id"].endswith("-none")
