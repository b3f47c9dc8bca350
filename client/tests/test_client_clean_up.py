"""Clean-up, a picture and a prompt in one request, and stored pictures, against the real service."""

from pathlib import Path

import numpy as np
import pytest
from client_server import Served

import sam2_client
from app.codecs.logits import encode_logits
from sam2_client import Client, Prompt
from tests.fakes import MASK_SIDE, RADII, disc, disc_mask

HEIGHT, WIDTH = 40, 60


def spotted() -> str:
    """Return logits of a disc with a hole of 4 pixels next to a speck of 6. The fake returns them as a mask."""
    logits = disc(0.5, 0.5, 9.0)
    logits[15:17, 15:17] = -5
    logits[2:5, 2:4] = 30
    return encode_logits(logits, bytes_per_value=4)


@pytest.mark.parametrize(("holes", "specks"), [(0, 0), (4, 0), (0, 6), (4, 6), (3.9, np.float32(5.9))])
def test_holes_are_filled_and_specks_removed(
    client: Client, truck: Path, holes: float, specks: float
) -> None:
    image = client.embed(truck)
    clean_up = {"max_hole_area": holes, "max_sprinkle_area": specks}
    (one,) = image.decode(mask=spotted(), **clean_up)
    ((many,),) = image.decode_many([Prompt(mask=spotted())], **clean_up)
    (at_once,) = client.segment(truck, mask=spotted(), **clean_up)
    for mask in (one, many, at_once):
        shown = mask.to_numpy()
        assert shown[HEIGHT // 2, WIDTH // 2] == (holes == 4)
        assert shown[:6].any() == (specks != 6)
        assert (len(mask.polygons), len(mask.holes)) == (1 if specks == 6 else 2, 0 if holes == 4 else 1)
        assert mask.area == shown.sum()


def test_a_cleaned_mask_is_refined_from_the_models_own_logits(
    client: Client, served: Served, truck: Path
) -> None:
    image = client.embed(truck)
    (cleaned,) = image.decode(mask=spotted(), max_hole_area=4, max_sprinkle_area=6)
    assert cleaned.logits is None
    image.decode(points=[(30, 20)], mask=cleaned)
    assert cleaned.logits == spotted(), "the logits are those before the clean-up"
    assert served.trouble.asked.count("POST /decode") == 3


def test_what_cannot_be_cleaned_is_said_by_the_server(client: Client, truck: Path) -> None:
    image = client.embed(truck)
    with pytest.raises(sam2_client.ValidationFailed, match="max_hole_area"):
        image.decode(points=[(30, 20)], max_hole_area=-1)
    with pytest.raises(sam2_client.ValidationFailed, match="max_sprinkle_area"):
        client.segment(truck, points=[(30, 20)], max_sprinkle_area=1e9)


def test_a_picture_and_a_click_in_one_request(client: Client, served: Served, truck: Path) -> None:
    for source in (truck, str(truck), truck.read_bytes(), np.zeros((HEIGHT, WIDTH), np.uint8)):
        served.trouble.asked.clear()
        best, *others = client.segment(source, [(30, 20)], multimask=True)
        assert served.trouble.asked == ["POST /segment"]
        assert len(others) == 2
        assert np.array_equal(best.to_numpy(), disc_mask(30, 20, RADII[2], height=HEIGHT, width=WIDTH))
    client.segment(truck, [(30, 20), (5, 6.5)], [1, 0], box=(1, 2, 50, 30))
    (sent,) = served.segmenter.decoded[-1]
    assert (sent.points, sent.labels, sent.box) == (((30, 20), (5, 6.5)), (1, 0), (1, 2, 50, 30))


def test_masks_of_one_request_can_be_refined(client: Client, served: Served, truck: Path) -> None:
    best, *_ = client.segment(truck, [(30, 20)], logits=True)
    assert best.logits is not None
    second = client.segment(truck, [(30, 20)])[1]
    for image in client.images():
        image.delete()
    served.trouble.asked.clear()
    (same,) = client.segment(truck, mask=second)
    assert served.trouble.asked == ["POST /decode", "POST /embed", "POST /decode", "POST /segment"]
    assert np.array_equal(same.to_numpy(), second.to_numpy())
    drawn = np.zeros((HEIGHT, WIDTH), bool)
    drawn[10:30, 15:45] = True
    (by_array,) = client.segment(truck, mask=drawn)
    assert np.mean(by_array.to_numpy() != drawn) < 0.1


def test_one_request_fails_in_the_servers_words(client: Client, served: Served, truck: Path) -> None:
    with pytest.raises(sam2_client.InvalidImage):
        client.segment(b"no picture", [(30, 20)])
    with pytest.raises(sam2_client.InvalidPrompt, match="too far outside"):
        client.segment(truck, [(999, 20)])
    with pytest.raises(FileNotFoundError):
        client.segment("nowhere.jpg", [(30, 20)])
    served.trouble.asked.clear()
    served.trouble.replies += [(503, {"Retry-After": "0"}, b""), (200, {}, b"{}")]
    with pytest.raises(sam2_client.UnexpectedReply):
        client.segment(truck, [(30, 20)])
    assert served.trouble.asked == ["POST /segment"] * 2


def test_what_the_server_holds_is_listed_and_forgotten(
    client: Client, monkeypatch: pytest.MonkeyPatch, truck: Path
) -> None:
    for image in client.images():
        image.delete()
    monkeypatch.setattr("sam2_client.holdings._PER_PAGE", 2)
    for name in ("first", "second", "third"):
        client.embed(truck, name)
    assert [(image.image_id, image.width) for image in client.images()] == [
        ("third", WIDTH), ("second", WIDTH), ("first", WIDTH)
    ]  # fmt: skip
    client.delete("second")
    client.delete("second")
    assert [image.image_id for image in client.images()] == ["third", "first"]
    assert len(client.images()[0].decode([(30, 20)])) == 3


def test_the_model_says_what_areas_count(client: Client, served: Served) -> None:
    model = client.model()
    assert (model.name, model.mask_size) == ("fake", (MASK_SIDE, MASK_SIDE))
    assert model.fingerprint == served.segmenter.fingerprint
    assert model.limits["max_prompts"] == 256


def test_feature_maps_are_arrays_also_of_what_was_forgotten(
    client: Client, served: Served, truck: Path
) -> None:
    image = client.embed(truck)
    maps = image.feature_maps()
    assert maps.keys() == {"image_embed", "high_res_feats_0", "high_res_feats_1"}
    assert {array.dtype for array in maps.values()} == {np.dtype(np.float32)}
    image.delete()
    halves = image.feature_maps(dtype="float16")
    assert all(
        array.dtype == np.float16 and array.shape == maps[name].shape for name, array in halves.items()
    )
    assert served.trouble.asked.count("POST /embed") == 2


@pytest.mark.parametrize("question", ["images", "model", "feature_maps"])
def test_another_servers_answer_is_none(client: Client, served: Served, truck: Path, question: str) -> None:
    image = client.embed(truck)
    served.trouble.replies.append((200, {}, b"{}"))
    with pytest.raises(sam2_client.UnexpectedReply):
        getattr(image if question == "feature_maps" else client, question)()
