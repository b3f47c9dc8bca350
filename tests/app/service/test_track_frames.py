"""What a track's frames were when it was begun, after a restart and in files of earlier versions."""

import json
from pathlib import Path

from app.settings import Settings
from tests.app.routes.track_requests import click, lines
from tests.fakes import picture, serving


async def test_another_picture_under_a_frame_s_name_is_noticed_after_a_restart(tmp_path: Path) -> None:
    settings = Settings(workers=2, cache_dir=str(tmp_path))
    async with serving(settings) as served:
        for number in range(2):
            await served.embed(picture(shade=number), f"f{number}")
        for name in ("walk", "older"):
            await served.post("/tracks", {"frames": ["f0", "f1"], "track_id": name})
            await click(served, name)
    for file in (tmp_path / "tracks").glob("*.json"):
        content = json.loads(file.read_text())
        if content["name"] == "older":
            del content["contents"]
            file.write_text(json.dumps(content))
    async with serving(settings) as served:
        path, headers = "/embed?image_id=f1&replace=true", {"Content-Type": "image/png"}
        await served.client.post(path, content=picture(shade=9), headers=headers)
        for name, expected in (("walk", True), ("older", False)):
            found = await lines(served, name)
            assert ["error" in each for each in found] == [False, expected, False]
