"""Integers of requests: 1.0 is one, as in JSON Schema, and what is not whole is refused."""

import pytest

from tests.app.routes.decode_requests import CLICK, HEIGHT, WIDTH
from tests.fakes import Served, error, picture, serving

pytestmark = pytest.mark.usefixtures("either_service")

BOX = {"size": [HEIGHT, WIDTH], "counts": [0, HEIGHT, HEIGHT * (WIDTH - 1)]}


async def begun(served: Served) -> str:
    """A track over two pictures."""
    for name in ("one", "two"):
        await served.embed(picture(WIDTH, HEIGHT), name)
    return str((await served.post("/tracks", {"frames": ["one", "two"]})).json()["track_id"])


async def test_whole_numbers_written_with_a_point_are_integers() -> None:
    async with serving() as served:
        tracks = [await begun(served), await begun(served)]
        bodies = [
            ("/decode", {"image_id": "one", **CLICK}, {"point_labels": [1.0]}),
            (
                "/decode",
                {"image_id": "one", "mask_input": BOX},
                {"mask_input": BOX | {"size": [HEIGHT, WIDTH * 1.0]}},
            ),
            (
                "/everything",
                {"image_id": "one", "points_per_side": 2},
                {"points_per_side": 2.0, "crop_n_layers": 0.0},
            ),
            ("/everything", {"image_id": "one", "points_per_side": 2, "max_masks": 1}, {"max_masks": 1.0}),
            (
                "/tracks/{}/prompts",
                {"frame": 1, "object": 3, **CLICK},
                {"frame": 1.0, "object": 3.0},
            ),
            ("/tracks/{}/propagate", {"from": 0, "to": 1}, {"from": 0.0, "to": 1.0}),
        ]
        for path, body, floats in bodies:
            whole, written = [
                await served.post(path.format(track), each)
                for track, each in zip(tracks, (body, body | floats), strict=True)
            ]
            assert whole.is_success
            assert written.text == whole.text


@pytest.mark.parametrize("label", [0.5, 1.5, 2.0, -1.0, 1e300, "1", True, None])
async def test_other_labels_are_refused(label: object) -> None:
    async with serving() as served:
        await served.embed(picture(WIDTH, HEIGHT), "one")
        reply = await served.post("/decode", {"image_id": "one", **CLICK, "point_labels": [label]})
        assert error(reply) == (422, "validation_error")
        assert "point_labels" in reply.json()["error"]["message"]
