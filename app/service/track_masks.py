"""Objects on a frame as masks in the requested format. Runs in worker threads.

Does not know about tracks, queues or JSON.
"""

from collections.abc import Sequence

import numpy as np

from app.codecs.answers import MaskAnswer, MaskOptions, answer, written_mask
from app.codecs.logits import encode_logits
from app.scheduling.abandoned import check_wanted
from app.service.track_values import ObjectAnswer
from model.masks.cleaning import clean
from model.masks.outlines import outline
from model.masks.runs import Runs, stability
from model.types import Logits, Prediction
from model.video.apart import apart
from model.video.values import ObjectMask


def shape_objects(
    shown: Sequence[ObjectMask],
    *,
    height: int,
    width: int,
    options: MaskOptions,
    logit_bytes: int,
    non_overlapping: bool,
) -> list[ObjectAnswer]:
    """Return the masks of all objects, in order. Where they may not overlap, the highest logit has a pixel."""
    masks: dict[int, Runs] = {}
    if non_overlapping:
        held = [(i, each.logits) for i, each in enumerate(shown) if each.logits is not None]
        cleaned = [
            clean(logits, max_hole_area=options.max_hole_area, max_sprinkle_area=options.max_sprinkle_area)
            for _, logits in held
        ]
        masks = dict(
            zip((i for i, _ in held), apart(cleaned, height=height, width=width) if held else (), strict=True)
        )
    answers = []
    for i, each in enumerate(shown):
        check_wanted()
        mask: MaskAnswer | None = None
        if each.logits is not None and i in masks:
            mask = _written(masks[i], each, each.logits, options=options, logit_bytes=logit_bytes)
        elif each.logits is not None:
            iou = np.array([each.iou], np.float32)
            (mask,) = answer(
                Prediction(each.logits[None], iou, each.object_score),
                height=height,
                width=width,
                options=options,
                logit_bytes=logit_bytes,
            )
        answers.append(ObjectAnswer(each.object_id, mask, each.object_score, visible=each.visible))
    return answers


def _written(
    mask: Runs, shown: ObjectMask, logits: Logits, *, options: MaskOptions, logit_bytes: int
) -> MaskAnswer:
    polygons = None
    if options.mask_format == "polygons":
        # Its border with another object is no zero of its logits, so the outline is that of the pixels.
        signs = mask.to_array().astype(np.float32) * 2 - 1
        polygons = outline(signs, mask, tolerance=options.simplify)
    return written_mask(
        mask,
        polygons=polygons,
        logits=encode_logits(logits, bytes_per_value=logit_bytes) if options.return_logits else None,
        iou=shown.iou,
        stability=stability(logits),
        options=options,
    )
