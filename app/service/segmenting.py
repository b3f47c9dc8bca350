"""A picture and prompts in one step: the picture is embedded unless it is known by its bytes, then come its masks.

Does not know about HTTP and JSON.
"""

from collections.abc import Sequence

from app.codecs.answers import Decoded, MaskOptions
from app.codecs.deep import Stretch
from app.codecs.prompts import PromptRequest
from app.scheduling.deadlines import within
from app.service.service import SegmentationService, TakenIn
from app.telemetry.stages import StageTimes


async def segment(
    service: SegmentationService,
    data: bytes,
    requests: Sequence[PromptRequest],
    *,
    options: MaskOptions,
    tenant: str,
    times: StageTimes,
    share: str,
    image_id: str | None = None,
    replace: bool = False,
    stretch: Stretch = "range",
) -> tuple[TakenIn, Decoded]:
    """Return the embedding of a picture file and its masks, within one deadline.

    The masks are of this picture, even if another one takes its id meanwhile. If the id is deleted meanwhile,
    nothing is stored. Raises a ServiceError for a bad picture or prompt, a full queue or a missed deadline.
    """
    service.check_prompts(requests)  # before the encoder runs in vain
    async with within(service.settings.deadline_s):
        taken = await service.take_in(
            data,
            tenant=tenant,
            image_id=image_id,
            replace=replace,
            stretch=stretch,
            times=times,
            share=share,
            needs_name=False,
        )
        decoded = await service.decode(
            taken.embedding, requests, options=options, tenant=tenant, times=times, share=share
        )
    return taken, decoded
