"""Which prompts of a track are kept, so that it can be made again from them.

A click builds on the mask that its frame has so far, also a click that replaces others, as in Meta's predictor. So
prompts that are replaced are kept until a mask takes their place. Where they become many, the object's frame is
begun anew, without that mask: at once, and after a restart alike. Does not know how objects are followed.
"""

from collections.abc import Sequence
from dataclasses import replace

from app.codecs.prompts import MAX_POINTS
from app.errors import InvalidPrompt
from app.service.track_values import TrackPromptRequest

MOST_OBJECTS = 64
"""Of one track. Each is asked for on every frame."""
MOST_PROMPTS = 4096
"""Prompts of one track, those that were replaced not counted."""
MOST_BYTES = 16 * 2**20
"""Of one track's prompts; masks are large."""
MOST_REPLACED = 16
"""Prompts of an object on a frame that a click replaces and builds on."""


def with_prompt(
    history: Sequence[TrackPromptRequest], request: TrackPromptRequest
) -> tuple[TrackPromptRequest, list[TrackPromptRequest]]:
    """A prompt as it is to be given, and the history with it, without those that nothing builds on any more.

    Raises InvalidPrompt if that are more than a track may have.
    """
    earlier = [at for at, each in enumerate(history) if _place(each) == _place(request)]
    if request.clear and len(earlier) >= MOST_REPLACED:
        request = replace(request, anew=True)
    if earlier and (request.anew or request.prompt.mask_input is not None):
        # In the place of the first, so that objects and frames keep their order.
        first, gone = earlier[0], set(earlier[1:])
        kept = [request if at == first else each for at, each in enumerate(history) if at not in gone]
    else:
        kept = [*history, request]
    check_size(kept)
    return request, kept


def with_own(
    theirs: Sequence[TrackPromptRequest],
    *,
    shared: Sequence[TrackPromptRequest],
    own: Sequence[TrackPromptRequest],
) -> list[TrackPromptRequest]:
    """The history of another server with what this one did since both had `shared`.

    What both added to an object on one frame counts. What one took back or replaced there, that one has replaced.
    Raises InvalidPrompt if that are more than a track may have.
    """
    before, ours = (_given_at(each) for each in (shared, own))
    added: list[TrackPromptRequest] = []
    replaced = set[tuple[int, int]]()
    for place in dict.fromkeys([*before, *ours]):
        was, has = before.get(place, []), ours.get(place, [])
        if has[: len(was)] == was:
            # Some may be there, because this one did not hear that they were written.
            added += [each for each in has[len(was) :] if each not in theirs]
        else:
            replaced.add(place)
            added += has
    merged = [each for each in theirs if _place(each) not in replaced] + added
    check_size(merged)
    return merged


def _given_at(history: Sequence[TrackPromptRequest]) -> dict[tuple[int, int], list[TrackPromptRequest]]:
    found: dict[tuple[int, int], list[TrackPromptRequest]] = {}
    for each in history:
        found.setdefault(_place(each), []).append(each)
    return found


def objects_of(history: Sequence[TrackPromptRequest]) -> dict[int, list[TrackPromptRequest]]:
    """Objects in the order added, each with its prompts by frame, without those that were replaced."""
    objects: dict[int, list[TrackPromptRequest]] = {}
    for (object_id, _), prompts in _by_place(history).items():
        objects.setdefault(object_id, []).extend(prompts)
    return objects


def check_size(history: Sequence[TrackPromptRequest]) -> None:
    """Raises InvalidPrompt for more than a track may have."""
    places = _by_place(history)
    objects = {object_id for object_id, _ in places}
    if len(objects) > MOST_OBJECTS:
        raise InvalidPrompt(f"A track has {MOST_OBJECTS} objects at most. DELETE one that is not needed.")
    if sum(map(len, places.values())) > MOST_PROMPTS:
        raise InvalidPrompt(f"A track has {MOST_PROMPTS} prompts at most. DELETE objects or their prompts.")
    for (object_id, frame), prompts in places.items():
        if (points := sum(len(each.prompt.point_coords) for each in prompts)) > MAX_POINTS:
            raise InvalidPrompt(
                f"Object {object_id} has {points} points on frame {frame}; the limit is {MAX_POINTS}. "
                "Replace those that are there: clear: true."
            )
    if sum(each.nbytes for each in history) > MOST_BYTES:
        raise InvalidPrompt(
            f"The prompts of a track take {MOST_BYTES // 2**20} MiB at most. DELETE objects or prompts."
        )


def _by_place(history: Sequence[TrackPromptRequest]) -> dict[tuple[int, int], list[TrackPromptRequest]]:
    """Prompts by object and frame, in the order added, without those that were replaced."""
    found: dict[tuple[int, int], list[TrackPromptRequest]] = {}
    for each in history:
        before = found.setdefault(_place(each), [])
        # A mask is the first one, if there is any: it replaces what was before.
        if each.clear or any(one.prompt.mask_input is not None for one in (each, *before[:1])):
            before.clear()
        before.append(each)
    return found


def _place(request: TrackPromptRequest) -> tuple[int, int]:
    return request.object_id, request.frame
