"""Turns the bodies of tracks into arguments of the service, and its answers into replies."""

from typing import Literal

from app.routes.replies import prompt_requests, write_mask
from app.routes.schemas import TrackLimits
from app.routes.track_fields import (
    NextReply,
    ObjectOfTrack,
    ObjectPrompt,
    PromptOfTrack,
    TrackDescription,
)
from app.service.prompt_history import MOST_OBJECTS, MOST_PROMPTS
from app.service.segmentation import Segmentation
from app.service.track_values import FrameAnswer, TrackInfo, TrackPromptRequest


def prompt_of(body: ObjectPrompt) -> TrackPromptRequest:
    """Convert a prompt for the service."""
    (prompt,) = prompt_requests([body])
    return TrackPromptRequest(body.frame, body.object, prompt, clear=body.clear)


def write_frame(answer: FrameAnswer) -> str:
    """Serialise all objects on a frame, one mask at a time, because each holds the interpreter lock."""
    objects = ",".join(
        f'{{"object":{each.object_id},"masks":[{write_mask(each.mask) if each.mask is not None else ""}],'
        f'"score":{round(each.score, 4)},"visible":{"true" if each.visible else "false"}}}'
        for each in answer.objects
    )
    return f'{{"frame":{answer.frame},"objects":[{objects}]}}'


def describe(info: TrackInfo, *, model: str, tracker: Literal["memory", "mask_prompt"]) -> TrackDescription:
    """Return the description of a track."""
    return TrackDescription(
        track_id=info.track_id,
        frames=info.frames,
        width=info.width,
        height=info.height,
        model=model,
        tracker=tracker,
        video_id=info.video_id,
        corrections="meta" if info.corrections == "plain" else "kept",
        objects=[_described(number, prompts) for number, prompts in info.objects.items()],
        done=info.done,
        next=NextReply(forward=info.next_forward, backward=info.next_backward),
        bytes=info.nbytes,
        created=info.created,
        used=info.used,
    )


def _described(number: int, prompts: list[TrackPromptRequest]) -> ObjectOfTrack:
    by_frame: dict[int, list[PromptOfTrack]] = {}
    for each in prompts:
        given = each.prompt
        described = PromptOfTrack(
            point_coords=given.point_coords or None,
            point_labels=given.point_labels or None,
            box=given.box,
            has_mask=given.mask_input is not None,
            clear=each.clear,
        )
        by_frame.setdefault(each.frame, []).append(described)
    return ObjectOfTrack(object=number, prompts=by_frame)


def track_limits(service: Segmentation) -> TrackLimits:
    """What GET /model says of tracks."""
    tracks, settings, left_bytes = service.tracks, service.settings, service.cache_limits.track_bytes
    asked_mib = settings.track_memory_mib
    return TrackLimits(
        tracker=tracks.kind,
        max_tracks=settings.max_tracks,
        max_frames=settings.max_video_frames,
        max_objects=MOST_OBJECTS,
        max_prompts=MOST_PROMPTS,
        bytes_per_object_and_frame=tracks.frame_bytes,
        memory_mib=asked_mib if left_bytes is None else min(asked_mib, left_bytes // 2**20),
    )
