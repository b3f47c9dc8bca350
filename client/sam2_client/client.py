"""Client and Image: the service for ordinary Python.

Only sends, waits and reads files; what is sent, and what replies mean, is in stories.py and holdings.py.
"""

import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Literal, Self, TypeVar

import httpx

from sam2_client import holdings, stories
from sam2_client.asking import Attempt, Story
from sam2_client.connection import DEFAULT_URL, options
from sam2_client.images import EmbedResult, Floats, KnownImage, Model, Progress, check_concurrency
from sam2_client.mask_options import MaskOptions
from sam2_client.masks import Embedded, Mask
from sam2_client.pictures import Picture, PictureSource
from sam2_client.prompts import Box, Labels, MaskPrompt, Points, Prompt
from sam2_client.retries import Retries

T = TypeVar("T")


class Client:
    """A SAM 2 service. Threads may share one; `with` or `close` ends its connections.

    Every method raises Sam2Error: one class for each thing that can go wrong, with the server's message.
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
        """`timeout` is the longest wait for a reply, in seconds, `retries` how often a busy or absent server is
        asked again; `transport` is httpx's, for proxies, certificates and tests. Raises ValueError for a bad `url`.
        """
        self._http = httpx.Client(**options(url, api_key, timeout), transport=transport)
        self._retries = Retries(retries)

    def close(self) -> None:
        """End all connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def embed(self, picture: PictureSource, image_id: str | None = None, *, replace: bool = False) -> "Image":
        """Upload a picture: a path, the bytes of a file, a PIL image or an array.

        `image_id` is a name of your own for it; `replace` lets that name stand for this picture from now on, even
        if it stands for another. Pixels are encoded without loss; for large ones the warning LargePictureWarning
        says that a file would be smaller. A PIL image is taken as its pixels are: the EXIF orientation is not
        applied. Raises OSError where a file cannot be read, TypeError and ValueError for what is no picture.
        """
        story = stories.embed(Picture(picture), image_id=image_id, replace=replace, retries=self._retries)
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
        """The masks of one prompt on a picture in a single request: an upload and a click.

        For one prompt; of a picture that gets more of them, `embed` and then `decode` send the file only once. The
        picture is what `embed` takes, the rest is as for Image.decode.
        """
        prompt = Prompt(points=points, labels=labels, box=box, mask=mask, multimask=multimask)
        options = MaskOptions(logits, max_hole_area, max_sprinkle_area)
        ready = Picture(picture)
        return self._tell(stories.segment(ready, prompt, options=options, retries=self._retries))

    def embed_many(
        self, pictures: Iterable[PictureSource], *, concurrency: int = 4, progress: bool = True
    ) -> list[EmbedResult["Image"]]:
        """Upload many pictures, `concurrency` at a time, with a bar on standard error.

        Answers one result for each picture, in order; one that fails carries its exception, and the rest goes on.
        """
        sources = check_concurrency(pictures, concurrency)
        with Progress(len(sources), shown=progress) as bar, ThreadPoolExecutor(concurrency) as pool:
            futures = [pool.submit(self._embed_one, source) for source in sources]
            try:
                for future in as_completed(futures):
                    bar.count(future.result())
            except BaseException:  # Ctrl-C, say: what has not begun is not to begin
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return [future.result() for future in futures]

    def image(self, image_id: str) -> "Image":
        """A picture that was embedded before, by its id. Raises ImageNotFound."""
        return self._image(self._tell(holdings.find(image_id, retries=self._retries)))

    def images(self) -> list["Image"]:
        """All pictures that the server holds, of this key, newest first."""
        held = self._tell(holdings.find_all(retries=self._retries))
        return [self._image(embedded) for embedded in held]

    def delete(self, image_id: str) -> None:
        """Have the server forget a picture; also succeeds where it has."""
        self._tell(holdings.delete(image_id, retries=self._retries))

    def model(self) -> Model:
        """The model that answers, and what the server accepts."""
        return self._tell(holdings.model(retries=self._retries))

    def _image(self, embedded: Embedded) -> "Image":
        return Image(embedded, self)

    def _embed_one(self, source: PictureSource) -> EmbedResult["Image"]:
        try:
            return EmbedResult(source, self.embed(source), None)
        except Exception as error:  # whatever it is, it is the result of this picture
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
        return self._http.send(attempt.call.request(self._http))


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
        """The masks of one prompt, best predicted IoU first; the fields are those of Prompt.

        `mask` refines an earlier one: its logits are sent, and asked for first where the reply came without them.
        `logits=True` asks for them at once, which saves that request and makes the reply large.

        `max_hole_area` fills the holes of a mask and `max_sprinkle_area` removes its specks, as SAM2ImagePredictor
        does: those of at most so many pixels of the model's own small mask, before it is enlarged. Of 256 x 256
        (`client.model().mask_size`), one is width / 256 x height / 256 pixels of the picture. 0: none. Refining
        starts from the logits of before any clean-up.
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
        """The masks of each prompt, in order; many prompts go in few requests. The rest is as for decode."""
        options = MaskOptions(logits, max_hole_area, max_sprinkle_area)
        retries = self._client._retries
        return self._client._tell(stories.decode(self._embedded, prompts, options=options, retries=retries))

    def feature_maps(self, *, dtype: Literal["float16", "float32"] = "float32") -> dict[str, Floats]:
        """What the encoder made of the picture, for a decoder or a model of your own.

        Arrays by name, channels first: image_embed (1, 256, 64, 64), high_res_feats_0 (1, 32, 256, 256) and
        high_res_feats_1 (1, 64, 128, 128) for the released models.
        """
        retries = self._client._retries
        return self._client._tell(stories.feature_maps(self._embedded, dtype=dtype, retries=retries))

    def delete(self) -> None:
        """Have the server forget this picture; also succeeds where it has."""
        self._client._tell(holdings.delete(self.image_id, retries=self._client._retries))
