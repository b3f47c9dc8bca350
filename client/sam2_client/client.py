"""Client and Image: the service for ordinary Python.

Only sends, waits and reads files; what is sent, and what replies mean, is in stories.py.
"""

import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Self, TypeVar

import httpx

from sam2_client import stories
from sam2_client.connection import DEFAULT_URL, options
from sam2_client.images import EmbedResult, KnownImage, Progress, check_concurrency
from sam2_client.masks import Embedded, Mask
from sam2_client.pictures import Picture, PictureSource
from sam2_client.prompts import Box, Labels, MaskPrompt, Points, Prompt
from sam2_client.retries import Retries
from sam2_client.stories import Attempt, Story

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
        return self._image(self._tell(stories.find(image_id, retries=self._retries)))

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
    ) -> list[Mask]:
        """The masks of one prompt, best predicted IoU first; the fields are those of Prompt.

        `mask` refines an earlier one: its logits are sent, and asked for first where the reply came without them.
        `logits=True` asks for them at once, which saves that request and makes the reply large.
        """
        prompt = Prompt(points=points, labels=labels, box=box, mask=mask, multimask=multimask)
        (masks,) = self.decode_many([prompt], logits=logits)
        return masks

    def decode_many(self, prompts: Sequence[Prompt], *, logits: bool = False) -> list[list[Mask]]:
        """The masks of each prompt, in order; many prompts go in few requests."""
        retries = self._client._retries
        return self._client._tell(stories.decode(self._embedded, prompts, logits=logits, retries=retries))

    def delete(self) -> None:
        """Have the server forget this picture; also succeeds where it has."""
        self._client._tell(stories.delete(self.image_id, retries=self._client._retries))
