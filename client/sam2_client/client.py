"""Client and Image: the service for ordinary Python.

Only sends, waits and reads files. stories.py and holdings.py know what is sent and what replies mean.
"""

import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Literal, Self, TypeVar

import httpx

from sam2_client import bodies, holdings, stories
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
    """A SAM 2 service. Threads may share a client. `with` or `close` ends its connections.

    Every method raises Sam2Error, with one class for each kind of failure and the server's message.
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
        """`timeout` is the longest wait for a reply in seconds. `retries` is how often a busy or unreachable
        server is asked again. `transport` is httpx's, for proxies, certificates and tests. Raises ValueError
        for a bad `url`.
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

        `image_id` is your own name for it. `replace` assigns that name to this picture even if it belongs to
        another one. Pixels are encoded without loss; for large ones, LargePictureWarning says that a file would
        be smaller. The pixels of a PIL image are used as they are: the EXIF orientation is not applied. Raises
        OSError if a file cannot be read, and TypeError or ValueError if it is not a picture.
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
        """Return the masks of one prompt on a picture in a single request: an upload and a click.

        For more prompts on one picture use `embed` and then `decode`, which send the file only once. The
        picture is as in `embed`, the rest as in Image.decode.
        """
        prompt = Prompt(points=points, labels=labels, box=box, mask=mask, multimask=multimask)
        options = MaskOptions(logits, max_hole_area, max_sprinkle_area)
        ready = Picture(picture)
        return self._tell(stories.segment(ready, prompt, options=options, retries=self._retries))

    def embed_many(
        self, pictures: Iterable[PictureSource], *, concurrency: int = 4, progress: bool = True
    ) -> list[EmbedResult["Image"]]:
        """Upload many pictures, `concurrency` at a time, with a progress bar on standard error.

        Returns one result for each picture, in order. A failed picture carries its exception, and the others
        continue.
        """
        sources = check_concurrency(pictures, concurrency)
        with Progress(len(sources), shown=progress) as bar, ThreadPoolExecutor(concurrency) as pool:
            futures = [pool.submit(self._embed_one, source) for source in sources]
            try:
                for future in as_completed(futures):
                    bar.count(future.result())
            except BaseException:  # for example Ctrl-C: uploads that have not begun must not begin
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
        """Make the server forget a picture. Succeeds if it is forgotten already."""
        self._tell(holdings.delete(image_id, retries=self._retries))

    def model(self) -> Model:
        """The model, and the limits of the server."""
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
            return bodies.read(response)
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
        """The masks of one prompt, best predicted IoU first; the fields are those of Prompt.

        `mask` refines an earlier mask: its logits are sent, and requested first if the reply came without them.
        `logits=True` requests them at once, which saves that request but makes the reply large.

        `max_hole_area` fills the holes of a mask and `max_sprinkle_area` removes its specks, as
        SAM2ImagePredictor does: those of at most this many pixels of the model's own small mask, before it is
        enlarged. With 256 x 256 (`client.model().mask_size`), one of them is width / 256 x height / 256 pixels
        of the picture. 0: none. Refining starts from the logits before any clean-up.
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
        """Return the masks of each prompt, in order. Many prompts go in few requests. See decode."""
        options = MaskOptions(logits, max_hole_area, max_sprinkle_area)
        retries = self._client._retries
        return self._client._tell(stories.decode(self._embedded, prompts, options=options, retries=retries))

    def feature_maps(self, *, dtype: Literal["float16", "float32"] = "float32") -> dict[str, Floats]:
        """The encoder's output for the picture, for your own decoder or model.

        Arrays by name, channels first: image_embed (1, 256, 64, 64), high_res_feats_0 (1, 32, 256, 256) and
        high_res_feats_1 (1, 64, 128, 128) for the released models.
        """
        retries = self._client._retries
        return self._client._tell(stories.feature_maps(self._embedded, dtype=dtype, retries=retries))

    def delete(self) -> None:
        """Make the server forget this picture. Succeeds if it is forgotten already."""
        self._client._tell(holdings.delete(self.image_id, retries=self._client._retries))
