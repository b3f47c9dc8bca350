"""Every object of a picture: find or make its embedding, decide where to click, and search.

Does not know about HTTP and JSON.
"""

from app.codecs.deep import Stretch
from app.codecs.logits import bytes_per_logit
from app.errors import Detail, InvalidPrompt
from app.scheduling.deadlines import within
from app.service.found_masks import Criteria, Everything
from app.service.search import DEADLINE_SETTING, Report, Request
from app.service.segmentation import NewPicture
from app.service.service import SegmentationService
from app.storage.names import stretch_of
from app.telemetry.stages import StageTimes
from model.everything.crops import Crop, plan
from model.types import Embedding

MOST_POINTS = 65_536
"""Points of one request, on all its crops."""


async def everything(
    service: SegmentationService,
    picture: str | NewPicture,
    criteria: Criteria,
    *,
    tenant: str,
    times: StageTimes,
    share: str,
    report: Report,
) -> tuple[str, Everything]:
    """Return the id of a picture, which is stored or new, and every object on it, within a deadline of its own.

    `report` is called first with 0, when the embedding is there and the work is admitted. If the id of a new
    picture is deleted meanwhile, nothing is stored, as in segment(). Raises a ServiceError for an unknown image, a
    bad picture, options that leave nothing to do, crops of a picture whose file is not kept, a full queue, a
    client over its rate, or a missed deadline.
    """
    searches = service.searches
    async with within(service.settings.everything_deadline_s, DEADLINE_SETTING), searches.admitted(share):
        segmenter = service.ready()
        file: tuple[bytes, Stretch] | None
        if isinstance(picture, NewPicture):
            taken = await service.take_in(
                picture.data,
                tenant=tenant,
                image_id=picture.image_id,
                replace=picture.replace,
                stretch=picture.stretch,
                times=times,
                share=share,
                needs_name=False,
            )
            image_id, embedding, file = taken.image_id, taken.embedding, (picture.data, picture.stretch)
            crops = _crops(criteria, embedding)
        else:
            image_id = picture
            embedding, crops, file = await _stored(
                service, image_id, criteria, tenant=tenant, times=times, share=share
            )
        request = Request(
            embedding,
            crops,
            file,
            criteria,
            segmenter.name,
            logit_bytes=bytes_per_logit(segmenter.dtype_name),
            is_passed=segmenter.cpu_threads > 0,
            share=share,
            times=times,
            report=report,
        )
        return image_id, await searches.run(request)


def _crops(criteria: Criteria, embedding: Embedding) -> list[Crop]:
    try:
        crops = plan(criteria.pattern, height=embedding.height, width=embedding.width)
    except ValueError as error:
        raise InvalidPrompt(f"{error}.") from error
    if (points := sum(len(crop.points) for crop in crops)) > MOST_POINTS:
        raise InvalidPrompt(
            f"{points} points on {len(crops)} crops; the limit is {MOST_POINTS}. Lower points_per_side or "
            "crop_n_layers, or raise crop_n_points_downscale_factor."
        )
    return crops


async def _stored(
    service: SegmentationService,
    image_id: str,
    criteria: Criteria,
    *,
    tenant: str,
    times: StageTimes,
    share: str,
) -> tuple[Embedding, list[Crop], tuple[bytes, Stretch] | None]:
    """A stored picture, and its file if crops are cut from it: both of one picture, also if its id is replaced."""
    while True:
        name = await service.store.look_up(image_id, tenant=tenant)
        embedding = await service.find_named(name, image_id, tenant=tenant, times=times, share=share)
        crops = _crops(criteria, embedding)
        if not any(crop.layer > 0 for crop in crops):
            return embedding, crops, None
        if (file := await service.store.find_upload(name.content)) is not None:
            return embedding, crops, (file, stretch_of(name.content))
        if (await service.store.look_up(image_id, tenant=tenant)).content == name.content:
            break  # else it was given to another picture meanwhile, which is looked at then
    what = (
        "crops are cut from the picture itself, and this server keeps its embedding only (SAM2_KEEP_UPLOADS). Send "
        "the picture in a form with these options, or leave out crop_n_layers"
    )
    raise InvalidPrompt(f"crop_n_layers: {what}.", details=[Detail(where="crop_n_layers", what=what)])
