"""Prompts of a track that are kept: not all that were ever given, and still what the track is made of."""

import asyncio
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from app.codecs.prompts import MAX_POINTS, PromptRequest
from app.errors import InvalidPrompt
from app.service import prompt_history
from app.service.prompt_history import MOST_REPLACED, check_size, objects_of, with_prompt
from app.service.track_values import TrackPromptRequest
from app.settings import Settings
from model.types import Prompt
from model.video.mask_prompt import MaskPromptTrack
from model.video.values import Frame
from tests.fakes import FakeSegmenter, Served, serving
from tests.model.video.small import small_runner

MASK = "AAAA"


def given(
    object_id: int, frame: int, x: float = 1, *, clear: bool = False, mask: bool = False
) -> TrackPromptRequest:
    prompt = PromptRequest(mask_input=MASK) if mask else PromptRequest([[x, 2.0]], [1])
    return TrackPromptRequest(frame, object_id, prompt, clear=clear)


def history_of(*requests: TrackPromptRequest) -> list[TrackPromptRequest]:
    history: list[TrackPromptRequest] = []
    for request in requests:
        _, history = with_prompt(history, request)
    return history


async def test_a_track_that_was_corrected_for_long_is_the_same_after_a_restart(tmp_path: Path) -> None:
    """By the small random model with both halves, where a click builds on the mask before it."""
    runner, memory = small_runner()
    runner.tracking.network()._memory = memory
    runner.gate = asyncio.Event()  # type: ignore[attr-defined]  # as the fake has it
    settings = Settings(workers=2, cache_dir=str(tmp_path))
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(3).integers(0, 255, (40, 60, 3), np.uint8)).save(file, "PNG")
    followed = {"mask_format": "rle", "logits": True}
    async with serving(settings, runner) as served:  # type: ignore[arg-type]
        await served.embed(file.getvalue(), "f0")
        await served.post("/tracks", {"frames": ["f0", "f0"], "track_id": "walk"})
        for place in range(3 * MOST_REPLACED):
            shown = await _click(served, object=place % 2, x=place, clear=True)
        before = await served.post("/tracks/walk/propagate", followed)
        said = (await served.client.get("/tracks/walk")).json()["objects"]
    assert [[len(each) for each in found["prompts"].values()] for found in said] == [[1], [1]]
    async with serving(settings, runner) as served:  # type: ignore[arg-type]
        assert (await served.post("/tracks/walk/propagate", followed)).text == before.text
        again = (await served.client.get("/tracks/walk")).json()["objects"]
        history = (await served.service.tracks.states.find("walk", tenant="")).history
    assert again == said
    assert len(history) <= 2 * MOST_REPLACED
    assert shown["objects"][0]["object"] == 0


async def _click(served: Served, *, object: int, x: float, clear: bool) -> Any:  # noqa: A002
    body = {"frame": 0, "object": object, "point_coords": [[x, 20]], "point_labels": [1], "clear": clear}
    reply = await served.post("/tracks/walk/prompts", body)
    assert reply.status_code == 200, reply.text
    return reply.json()


def test_a_click_that_replaces_others_counts_alone_and_they_are_kept_for_it_to_build_on() -> None:
    history = history_of(given(1, 0, 5), given(2, 0), given(1, 0, 6), given(1, 0, 7, clear=True))
    assert [each.prompt.point_coords[0][0] for each in history] == [5, 1, 6, 7]
    found = objects_of(history)
    assert list(found) == [1, 2]
    assert [each.prompt.point_coords[0][0] for each in found[1]] == [7]


def test_nothing_that_a_mask_replaced_is_kept_and_its_place_stays() -> None:
    history = history_of(given(1, 0), given(2, 0), given(1, 3), given(1, 0), given(1, 0, mask=True))
    assert [(each.object_id, each.frame, each.prompt.mask_input) for each in history] == [
        (1, 0, MASK),
        (2, 0, None),
        (1, 3, None),
    ]
    history = history_of(*history, given(1, 0, 9))
    assert objects_of(history)[1] == [history[-1], history[2]]


def test_replaced_prompts_are_bounded_and_the_next_one_begins_anew() -> None:
    requests = [given(1, 0, x, clear=True) for x in range(MOST_REPLACED)]
    history = history_of(given(2, 0), *requests)
    assert not any(each.anew for each in history)
    request, history = with_prompt(history, given(1, 0, 99, clear=True))
    assert request.anew
    assert history == [given(2, 0), request]
    assert TrackPromptRequest.of_json(request.to_json()) == request


def test_only_what_counts_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompt_history, "MOST_PROMPTS", 2)
    history = history_of(*(given(1, 0, x, clear=True) for x in range(9)), given(1, 1))
    with pytest.raises(InvalidPrompt, match="2 prompts at most"):
        with_prompt(history, given(2, 0))
    monkeypatch.setattr(prompt_history, "MOST_OBJECTS", 1)
    with pytest.raises(InvalidPrompt, match="1 objects at most"):
        with_prompt(history[:1], given(2, 0))
    monkeypatch.setattr(prompt_history, "MOST_BYTES", 9)
    with pytest.raises(InvalidPrompt, match="MiB at most"):
        check_size(history[:1])


def test_clicks_of_an_object_on_a_frame_are_bounded_because_its_decoder_sees_all_of_them() -> None:
    half = PromptRequest([[1.0, 2.0]] * (MAX_POINTS // 2), [1] * (MAX_POINTS // 2))
    full = [TrackPromptRequest(frame, 1, half) for frame in (0, 0, 3)]
    check_size(full)
    for history in ([*full, given(1, 0)], [*full[:1], given(1, 0), *full[1:]]):
        with pytest.raises(InvalidPrompt, match="Object 1 has 257 points on frame 0; the limit is 256"):
            check_size(history)
    check_size([*full, given(1, 0, clear=True)])
    check_size([*full, given(1, 0, mask=True), *full])


def test_an_object_begun_anew_is_not_asked_for_with_its_mask() -> None:
    segmenter = FakeSegmenter()
    track = MaskPromptTrack(segmenter.decode, num_frames=1, mask_size=segmenter.mask_size)
    (embedding,) = segmenter.encode([np.zeros((4, 6, 3), np.uint8)])
    click = Prompt(points=((1.0, 1.0),), labels=(1,))
    for replaces, anew in ((False, False), (True, False), (True, True)):
        track.prompt(Frame(0, embedding), 1, click, replaces=replaces, anew=anew)
    assert [prompts[0].mask_logits is None for prompts in segmenter.decoded] == [True, False, True]
