"""Client and Image: the synchronous client.

Only sends, waits and reads files. stories.py and holdings.py define what is sent and what replies mean.
"""

import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Literal, Self, TypeVar

import httpx

from sam2_client import bodies, holdings, stories
from sam2_client.asking import Attempt, Story
from sam2_client.connection import DEFAULT_URL, options
from sam2_client.everything_options import EverythingOptions, Order
from sam2_client.found_masks import FoundMask
from sam2_client.images import EmbedResult, Floats, KnownImage, Model, Progress, check_concurrency
from sam2_client.mask_options import MaskOptions
from sam2_client.masks import Embedded, Mask
from sam2_client.pictures import Picture, PictureSource, Stretch
from sam2_client.prompts import Box, Labels, MaskPrompt, Points, Prompt
from sam2_client.retries import Retries
from sam2_client.step_lines import OnStep, watched

T = TypeVar("T")


class Client:
    """A client of a SAM 2 service. Threads may share it. `with` or `close` closes its connections.

    Every method may raise Sam2Error. Each kind of failure has a subclass; the message is the server's.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        api_key: str | None = None,
        *,
        timeout: float = 60.0,
        retries: int = 4,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """`timeout` is the longest wait for a reply in seconds. `retries` is the number of retries if the server is
        busy or unreachable. `transport` is that of httpx, for proxies, certificates and tests. Raises ValueError
        for a bad `url` or `api_key`.
        """
        self._http = httpx.Client(**options(url, api_key, timeout), transport=transport)
        self._retries = Retries(retries)

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def embed(
        self,
        picture: PictureSource,
        image_id: str | None = None,
        *,
        replace: bool = False,
        stretch: Stretch = "range",
    ) -> "Image":
        """Upload a picture: a path, the bytes of a file, a PIL image or an array.

        `image_id` is your own name for it. `replace` assigns that name to this picture even if it belongs to
        another one. `stretch` says how a picture of more than 8 bits is read. Read in another way, it is another
        picture, and its own id has the word at its end. PIL images and arrays are encoded without loss. If that
        makes the upload large, LargePictureWarning suggests the file instead. The pixels of a PIL image are used as
        they are: the EXIF orientation is not applied. Raises OSError if a file cannot be read, and TypeError or
        ValueError if `picture` is not a picture.
        """
        story = stories.embed(
            Picture(picture, stretch=stretch), image_id=image_id, replace=replace, retries=self._retries
        )
        return self._image(self._tell(story))

    def segment(
        self,
        picture: PictureSource,
        points: Points | None = None,
        labels: Labels | None = None,
        *,
        box: Box | None = None,
        mask: MaskPrompt | None = None,
        multimask: bool | None = None,
        logits: bool = False,
        max_hole_area: float = 0.0,
        max_sprinkle_area: float = 0.0,
    ) -> list[Mask]:
        """Return the masks of one prompt on a picture in a single request: an upload and a click.

        For more prompts on one picture, use `embed` and then `decode`: they send the file only once. `picture` is
        as in `embed`, the other arguments are as in Image.decode.
        """
        prompt = Prompt(points=points, labels=labels, box=box, mask=mask, multimask=multimask)
        options = MaskOptions(logits, max_hole_area, max_sprinkle_area)
        ready = Picture(picture)
        return self._tell(stories.segment(ready, prompt, options=options, retries=self._retries))

    def embed_many(
        self, pictures: Iterable[PictureSource], *, concurrency: int = 4, progress: bool = True
    ) -> list[EmbedResult["Image"]]:
        """Upload many pictures, `concurrency` at a time, with a progress bar on standard error.

        Returns one result for each picture, in order. If a picture fails, its result has the exception, and the
        others continue.
        """
        sources = check_concurrency(pictures, concurrency)
        with Progress(len(sources), shown=progress) as bar, ThreadPoolExecutor(concurrency) as pool:
            futures = [pool.submit(self._embed_one, source) for source in sources]
            try:
                for future in as_completed(futures):
                    bar.count(future.result().error)
            except BaseException:  # for example Ctrl-C: start no further uploads
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return [future.result() for future in futures]

    def image(self, image_id: str) -> "Image":
        """Look up an embedded picture by its id. Raises ImageNotFound."""
        return self._image(self._tell(holdings.find(image_id, retries=self._retries)))

    def images(self) -> list["Image"]:
        """Look up all pictures that the server has stored for this key, newest first."""
        held = self._tell(holdings.find_all(retries=self._retries))
        return [self._image(embedded) for embedded in held]

    def delete(self, image_id: str) -> None:
        """Delete a picture from the server. Succeeds also if the server does not have it."""
        self._tell(holdings.delete(image_id, retries=self._retries))

    def model(self) -> Model:
        """Look up the server's model and limits."""
        return self._tell(holdings.model(retries=self._retries))

    def _image(self, embedded: Embedded) -> "Image":
        return Image(embedded, self)

    def _embed_one(self, source: PictureSource) -> EmbedResult["Image"]:
        try:
            return EmbedResult(source, self.embed(source), None)
        except Exception as error:  # any exception is the result of this picture
            return EmbedResult(source, None, error)

    def _tell(self, story: Story[T]) -> T:
        try:
            attempt = next(story)
            while True:
                try:
                    response = self._send(attempt)
                except httpx.RequestError as error:
                    attempt = story.throw(error)
                else:
                    attempt = story.send(response)
        except StopIteration as end:
            result: T = end.value
            return result

    def _send(self, attempt: Attempt) -> httpx.Response:
        if attempt.wait_s:
            time.sleep(attempt.wait_s)
        response = self._http.send(attempt.call.request(self._http), stream=True)
        try:
            return bodies.read(response, on_step=attempt.call.on_step)
        finally:
            response.close()


class Image(KnownImage):
    """An embedded picture to click on."""

    def __init__(self, embedded: Embedded, client: Client) -> None:
        super().__init__(embedded)
        self._client = client

    def decode(
        self,
        points: Points | None = None,
        labels: Labels | None = None,
        *,
        box: Box | None = None,
        mask: MaskPrompt | None = None,
        multimask: bool | None = None,
        logits: bool = False,
        max_hole_area: float = 0.0,
        max_sprinkle_area: float = 0.0,
    ) -> list[Mask]:
        """Return the masks of one prompt, best predicted IoU first. The prompt's fields are those of Prompt.

        `mask` refines an earlier mask by sending its logits. If that mask's reply came without logits, the client
        requests them first. `logits=True` requests them with the masks, which saves that request but makes the
        reply large.

        `max_hole_area` fills holes and `max_sprinkle_area` removes specks of at most that many pixels, as
        SAM2ImagePredictor does. 0 leaves all of them. The pixels are those of the model's own small mask, before
        it is enlarged. If that is 256 x 256 (`client.model().mask_size`), one of them is
        width / 256 x height / 256 pixels of the picture. Refining starts from the logits before any clean-up.
        """
        prompt = Prompt(points=points, labels=labels, box=box, mask=mask, multimask=multimask)
        (masks,) = self.decode_many(
            [prompt], logits=logits, max_hole_area=max_hole_area, max_sprinkle_area=max_sprinkle_area
        )
        return masks

    def decode_many(
        self,
        prompts: Sequence[Prompt],
        *,
        logits: bool = False,
        max_hole_area: float = 0.0,
        max_sprinkle_area: float = 0.0,
    ) -> list[list[Mask]]:
        """Return the masks of each prompt, in order. Sends up to 64 prompts in a request. See decode."""
        options = MaskOptions(logits, max_hole_area, max_sprinkle_area)
        retries = self._client._retries
        return self._client._tell(stories.decode(self._embedded, prompts, options=options, retries=retries))

    def everything(
        self,
        *,
        points_per_side: int | None = None,
        points: Points | None = None,
        region: Box | None = None,
        pred_iou_thresh: float | None = None,
        stability_score_thresh: float | None = None,
        stability_score_offset: float | None = None,
        mask_threshold: float | None = None,
        box_nms_thresh: float | None = None,
        crop_n_layers: int | None = None,
        crop_nms_thresh: float | None = None,
        crop_overlap_ratio: float | None = None,
        crop_n_points_downscale_factor: int | None = None,
        min_mask_region_area: float | None = None,
        use_m2m: bool | None = None,
        multimask_output: bool | None = None,
        max_masks: int | None = None,
        order: Order | None = None,
        logits: bool = False,
        progress: bool | OnStep = False,
    ) -> list[FoundMask]:
        """Return every object of the picture, best predicted IoU first. EverythingOptions describes the options.

        `progress=True` shows a bar on standard error. A function is called instead with how far the work is, 0..1,
        and how many masks are found; what it raises ends the work. If the connection breaks after the first such
        step, the call fails with ConnectionFailed and is not repeated. Raises TypeError or ValueError for options
        of a wrong type or shape.
        """
        options = EverythingOptions(
            points_per_side=points_per_side,
            points=points,
            region=region,
            pred_iou_thresh=pred_iou_thresh,
            stability_score_thresh=stability_score_thresh,
            stability_score_offset=stability_score_offset,
            mask_threshold=mask_threshold,
            box_nms_thresh=box_nms_thresh,
            crop_n_layers=crop_n_layers,
            crop_nms_thresh=crop_nms_thresh,
            crop_overlap_ratio=crop_overlap_ratio,
            crop_n_points_downscale_factor=crop_n_points_downscale_factor,
            min_mask_region_area=min_mask_region_area,
            use_m2m=use_m2m,
            multimask_output=multimask_output,
            max_masks=max_masks,
            order=order,
            logits=logits,
        )
        retries = self._client._retries
        with watched(progress) as on_step:
            story = stories.everything(self._embedded, options=options, on_step=on_step, retries=retries)
            return self._client._tell(story)

    def feature_maps(self, *, dtype: Literal["float16", "float32"] = "float32") -> dict[str, Floats]:
        """Return the encoder's output for the picture, for your own decoder or model.

        Arrays by name, channels first: image_embed (1, 256, 64, 64), high_res_feats_0 (1, 32, 256, 256) and
        high_res_feats_1 (1, 64, 128, 128) for the released models.
        """
        retries = self._client._retries
        return self._client._tell(stories.feature_maps(self._embedded, dtype=dtype, retries=retries))

    def delete(self) -> None:
        """Delete this picture from the server. Succeeds also if the server does not have it."""
        self._client._tell(holdings.delete(self.image_id, retries=self._client._retries))
