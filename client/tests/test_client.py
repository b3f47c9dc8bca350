"""Client against the real service on a real port: clicks, refining, evicted pictures, many pictures."""

from pathlib import Path

import numpy as np
import pytest
from client_server import Served, real_server
from PIL import Image

import sam2_client
from app.settings import Settings
from sam2_client import Client, InvalidPrompt, Prompt, ValidationFailed
from tests.fakes import IOUS, RADII, disc_mask, picture


def test_one_click_gives_three_masks_best_first(client: Client, truck: Path) -> None:
    masks = client.embed(truck).decode(points=[(30, 20)])
    assert [mask.iou for mask in masks] == sorted([min(iou, 1) for iou in IOUS], reverse=True)
    best = masks[0]
    wanted = disc_mask(30, 20, RADII[2], height=40, width=60)
    assert np.array_equal(best.to_numpy(), wanted)
    assert best.area == wanted.sum()
    x, y, width, height = best.bbox
    assert wanted[y : y + height, x : x + width].sum() == best.area
    assert 0 < best.stability <= 1
    assert best.logits is None


def test_a_prompt_arrives_as_it_was_written(client: Client, served: Served, truck: Path) -> None:
    image = client.embed(truck)
    image.decode(np.array([[30, 20], [5, 6.5]]), [1, 0], box=(1, 2, 50, 30), multimask=True)
    (sent,) = served.segmenter.decoded[-1]
    assert (sent.points, sent.labels, sent.box) == (((30, 20), (5, 6.5)), (1, 0), (1, 2, 50, 30))
    assert sent.multimask_output


@pytest.mark.parametrize(
    ("prompt", "what"),
    [
        (Prompt(points=(500, 375)), "list of"),  # type: ignore[arg-type]
        (Prompt(points=[(1, 2), (3,)]), "points cannot be read"),
        (Prompt(points=[(1, float("nan"))]), "not finite"),
        (Prompt(box=(1, 2, 3)), "x0, y0, x1, y1"),
        (Prompt(mask=np.zeros((4, 4))), "bool or integers"),
    ],
)
def test_prompts_without_a_sensible_shape_are_refused(
    client: Client, truck: Path, prompt: Prompt, what: str
) -> None:
    with pytest.raises(ValueError, match=what):
        client.embed(truck).decode_many([prompt])


def test_many_prompts_come_back_in_order_from_few_requests(
    client: Client, served: Served, truck: Path
) -> None:
    image = client.embed(truck)
    prompts = [Prompt(points=[(x % 60, x % 40)], multimask=False) for x in range(100)]
    answers = image.decode_many(prompts)
    assert served.trouble.asked.count("POST /decode") == 2
    for x in (0, 63, 64, 99):
        (mask,) = answers[x]
        assert np.array_equal(mask.to_numpy(), disc_mask(x % 60, x % 40, RADII[1], height=40, width=60))
    assert image.decode_many([]) == []
    for wrong in (Prompt(box=(9, 9, 9, 9)), Prompt(points=[(1, 1)] * 257)):
        with pytest.raises((InvalidPrompt, ValidationFailed), match=r"^prompts\[70\]") as raised:
            image.decode_many([*prompts[:70], wrong])
        assert raised.value.details[0]["where"].startswith("prompts[70]"), "as the caller counts them"


def test_a_server_that_accepts_fewer_prompts_gets_fewer(truck: Path) -> None:
    with real_server(Settings(workers=1, max_prompts=10)) as served:
        with Client(served.url) as client:
            image = client.embed(truck)
            prompts = [Prompt(points=[(x, x)], multimask=False) for x in range(25)]
            answers = image.decode_many(prompts)
            for x, (mask,) in enumerate(answers):
                assert np.array_equal(mask.to_numpy(), disc_mask(x, x, RADII[1], height=40, width=60))
            with pytest.raises(InvalidPrompt):
                image.decode_many([Prompt(points=[(500, 500)])] * 3)
        asked = [each for each in served.trouble.asked if each != "POST /embed"]
        decode = "POST /decode"
        assert asked == [decode, "GET /model", decode, decode, decode, decode, "GET /model"]


def test_refining_asks_for_the_logits_once(client: Client, served: Served, truck: Path) -> None:
    image = client.embed(truck)
    second = image.decode(points=[(30, 20)])[1]
    asked = served.trouble.asked
    asked.clear()
    image.decode(points=[(30, 20), (50, 5)], labels=[1, 0], mask=second)
    assert asked == ["POST /decode"] * 2
    (sent,) = served.segmenter.decoded[-1]
    full_size = sent.mask_logits
    assert full_size is not None
    assert second.logits is not None
    image.decode(points=[(31, 20)], mask=second)
    assert asked == ["POST /decode"] * 3, "the logits are kept"
    # The logits are of this mask, not of the best one: the fake returns a mask without clicks unchanged.
    (same,) = image.decode(mask=second)
    assert np.array_equal(same.to_numpy(), second.to_numpy())


def test_logits_may_come_at_once(client: Client, served: Served, truck: Path) -> None:
    image = client.embed(truck)
    best, *_ = image.decode(points=[(30, 20)], logits=True)
    served.trouble.asked.clear()
    (same,) = image.decode(mask=best)
    (also,) = image.decode(mask=best.logits)
    assert served.trouble.asked == ["POST /decode"] * 2
    assert np.array_equal(same.to_numpy(), best.to_numpy())
    assert np.array_equal(also.to_numpy(), best.to_numpy())


def test_masks_of_other_sources_can_be_refined(client: Client, served: Served, truck: Path) -> None:
    image = client.embed(truck)
    drawn = np.zeros((40, 60), bool)
    drawn[10:30, 15:45] = True
    (by_array,) = image.decode(mask=drawn)
    (mask,) = image.decode(box=(15, 10, 45, 30))
    read_from_file = sam2_client.Mask.from_dict(mask.to_dict())
    image.decode(mask=read_from_file)
    image.decode(mask=mask.rle)
    assert np.mean(by_array.to_numpy() != drawn) < 0.1
    by_file, by_rle = (served.segmenter.decoded[at][0].mask_logits for at in (-2, -1))
    assert by_file is not None
    assert np.array_equal(by_file, by_rle)


def test_a_forgotten_picture_is_embedded_again_once(client: Client, served: Served, truck: Path) -> None:
    for source, name in [(truck, None), (truck.read_bytes(), None), (truck, "my-truck")]:
        image = client.embed(source, name)
        image.delete()
        served.trouble.asked.clear()
        assert len(image.decode(points=[(30, 20)])) == 3
        assert served.trouble.asked == ["POST /decode", "POST /embed", "POST /decode"]


def test_a_picture_known_by_its_id_alone_cannot_be_embedded_again(client: Client, truck: Path) -> None:
    client.embed(truck, "named")
    image = client.image("named")
    assert (image.width, image.height, image.cached) == (60, 40, True)
    assert len(image.decode(points=[(30, 20)])) == 3
    image.delete()
    image.delete()
    with pytest.raises(sam2_client.ImageNotFound, match="POST the picture to /embed"):
        image.decode(points=[(30, 20)])
    with pytest.raises(sam2_client.ImageNotFound):
        client.image("named")


def test_another_file_is_not_taken_for_the_forgotten_one(client: Client, truck: Path) -> None:
    image = client.embed(truck, "changing")
    image.delete()
    truck.write_bytes(picture(60, 40, shade=99))
    with pytest.raises(sam2_client.PictureChanged, match=r"truck\.png has changed"):
        image.decode(points=[(30, 20)])


def test_embed_many_loses_nothing_to_one_that_fails(
    client: Client, served: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sources: list[str | Path | bytes] = []
    for shade in range(8):
        path = tmp_path / f"{shade}.png"
        path.write_bytes(picture(60 + shade, 40, shade=shade))
        sources.append(path)
    sources[3:3] = [str(tmp_path / "nowhere.png"), b"no picture"]
    served.trouble.most_at_once = 0
    results = client.embed_many(iter(sources), concurrency=2)
    assert [result.source for result in results] == sources
    assert [result.image.width if result.image else type(result.error) for result in results] == [
        60, 61, 62, FileNotFoundError, sam2_client.InvalidImage, 63, 64, 65, 66, 67,
    ]  # fmt: skip
    assert served.trouble.most_at_once <= 2
    shown = capsys.readouterr().err
    assert "10/10" in shown
    assert "failed=2" in shown
    client.embed_many(sources, progress=False)
    assert capsys.readouterr().err == ""


def test_embed_many_says_what_it_cannot_take(client: Client) -> None:
    with pytest.raises(TypeError, match="a list of pictures"):
        client.embed_many("truck.jpg")
    with pytest.raises(ValueError, match="at least 1"):
        client.embed_many([], concurrency=0)
    with pytest.raises(ValueError, match=r"concurrency is 1\.5"):  # which would be no limit
        client.embed_many([], concurrency=1.5)  # type: ignore[arg-type]
    one = np.zeros((40, 60, 3), np.uint8)
    for single in (one, Image.fromarray(one), Path("truck.png")):
        with pytest.raises(TypeError, match="use embed for a single one"):
            client.embed_many(single)  # type: ignore[arg-type]
    assert len(client.embed_many(np.stack([one] * 2), progress=False)) == 2
    assert client.embed_many([], progress=False) == []


def test_embed_many_that_is_interrupted_begins_no_more(
    client: Client, served: Served, truck: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sam2_client.images.Progress.count", interrupt)
    with pytest.raises(KeyboardInterrupt):
        client.embed_many([truck] * 200, concurrency=1, progress=False)
    assert len(served.trouble.asked) < 200
