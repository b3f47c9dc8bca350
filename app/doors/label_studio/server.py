"""Fetches pictures from the Label Studio that the settings name, with its login.

Task data is written by users, so only paths that serve pictures are asked for, and the login goes to no other
origin: not to an address in a task, not to one that Label Studio redirects to. Those are fetched as all addresses
of users are, if at all. Does not know tasks and pictures.
"""

import asyncio
import re
from collections.abc import Callable
from contextlib import aclosing
from urllib.parse import unquote

import httpx
from anyio import connect_tcp  # noqa: F401  # else imported by the first connection: 20 ms of the event loop

from app.errors import DeadlineExceeded, ImageTooLarge, InvalidImage, UnsupportedMediaType
from app.routes.field_errors import invalid
from app.routes.remote_pictures import MAX_REDIRECTS, RemotePictures, read_within

_CONNECT_S = 5.0
_REDIRECTS = (301, 302, 303, 307, 308)
_UNAUTHORIZED = (401, 403)
_OF_PICTURES = re.compile(r"/(data|static|storage-data)/.+|/(tasks|projects)/\d+/(resolve|presign)/?")
_LOGIN = re.compile(r"/user/(login|signup)")
_JWT = re.compile(r"[\w-]+\.[\w-]+\.[\w-]+")
_ACCESS_S = 240.0
"""How long an access token is used. It is good for five minutes."""


class LabelStudioServer:
    """One Label Studio. `api_key` is a personal access token, a legacy token or "".

    Files have at most `max_bytes`, and each arrives within `deadline_s`. `remote` fetches what lies elsewhere.
    """

    def __init__(
        self, url: str, api_key: str, *, max_bytes: int, deadline_s: float, remote: RemotePictures
    ) -> None:
        self._base = httpx.URL(url)
        self._prefix = self._base.path.rstrip("/")
        self._api_key = api_key
        self._max_bytes = max_bytes
        self._deadline_s = deadline_s
        self._remote = remote
        # Proxies and passwords from the environment are not used, but SSL_CERT_FILE is, for private authorities.
        self._client = httpx.AsyncClient(
            trust_env=False,
            verify=httpx.create_ssl_context(),
            timeout=httpx.Timeout(deadline_s, connect=min(_CONNECT_S, deadline_s)),
        )
        self._access = ""
        self._access_until = 0.0
        self._renewing = asyncio.Lock()

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    def is_own(self, url: httpx.URL) -> bool:
        """Whether a URL has Label Studio's origin."""
        return _origin(url) == _origin(self._base)

    async def fetch(self, address: str, *, token: str, arrived: Callable[[int], None]) -> bytes:
        """Return a file of Label Studio, by its path or its URL. `token` is used if there is no key of our own.

        `arrived` is called with the size of each chunk. Raises InvalidImage if the file cannot be fetched,
        ValidationFailed for an address that may not be, ImageTooLarge and DeadlineExceeded.
        """
        url = self._url(address)
        try:
            async with asyncio.timeout(self._deadline_s):
                return await self._follow(url, token, arrived)
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"Label Studio sent no complete answer within {self._deadline_s:g} s (SAM2_DEADLINE_S)."
            ) from error
        except httpx.HTTPError as error:
            raise InvalidImage(
                f"Label Studio cannot be reached at {self._base} (SAM2_LABEL_STUDIO_URL): "
                f"{str(error).rstrip('.') or type(error).__name__}."
            ) from error

    def _url(self, address: str) -> httpx.URL:
        if address.startswith("/"):
            path = address if address.startswith(f"{self._prefix}/") else self._prefix + address
            address = f"{self._base.scheme}://{self._base.netloc.decode('ascii')}{path}"
        try:
            return httpx.URL(address)
        except (httpx.InvalidURL, ValueError) as error:
            raise invalid("data", "the picture's address is not a URL") from error

    async def _follow(self, url: httpx.URL, token: str, arrived: Callable[[int], None]) -> bytes:
        for _ in range(1 + MAX_REDIRECTS):
            if not self.is_own(url):
                return await self._remote.fetch(str(url), arrived=arrived)
            self._check_path(url)
            async with aclosing(await self._get(url, token)) as response:
                if response.status_code not in _REDIRECTS:
                    return await self._read(response, arrived)
                location = response.headers.get("location", "")
            try:
                url = url.join(location)
            except (httpx.InvalidURL, ValueError) as error:
                raise InvalidImage("Label Studio redirects to something that is not a URL.") from error
            if url.host == self._base.host and url.scheme != self._base.scheme:
                raise self._moved(f"{url.scheme}://{url.netloc.decode('ascii')}")
        raise InvalidImage(f"Label Studio redirects more than {MAX_REDIRECTS} times.")

    def _check_path(self, url: httpx.URL) -> None:
        path = unquote(url.path)
        inner = path.removeprefix(self._prefix)
        if _LOGIN.match(inner):
            raise InvalidImage(
                "Label Studio asks for a login. Set SAM2_LABEL_STUDIO_API_KEY to an access token of an account "
                "that may see the picture."
            )
        # Encoded twice or with backslashes, a path may mean another one to the server.
        steps = re.split(r"[/\\]", unquote(path))
        if url.userinfo or ".." in steps or "." in steps or "\\" in path or not _OF_PICTURES.fullmatch(inner):
            raise invalid("data", f"{inner[:80]!r} is not a path of Label Studio's pictures")

    async def _get(self, url: httpx.URL, token: str) -> httpx.Response:
        response = await self._send(url, await self._authorization(token))
        if response.status_code == 401 and _JWT.fullmatch(
            self._api_key
        ):  # the access token was revoked or is old
            await response.aclose()
            self._access = ""
            response = await self._send(url, await self._authorization(token))
        return response

    async def _send(self, url: httpx.URL, authorization: str) -> httpx.Response:
        # Label Studio answers "image/*" with 406: its framework does not know what its own views send.
        headers = {"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": "sam2-service"}
        if authorization:
            headers["Authorization"] = authorization
        return await self._client.send(self._client.build_request("GET", url, headers=headers), stream=True)

    async def _authorization(self, token: str) -> str:
        """Return the value of the header. A personal access token is exchanged for one that lives for minutes."""
        key = self._api_key or token
        if not _JWT.fullmatch(key):
            return f"Token {key}" if key else ""
        if key != self._api_key:  # Label Studio itself sends legacy tokens only
            return ""
        async with self._renewing:
            now = asyncio.get_running_loop().time()
            if not self._access or now > self._access_until:
                self._access = await self._renew()
                self._access_until = now + _ACCESS_S
        return f"Bearer {self._access}"

    async def _renew(self) -> str:
        reply = await self._client.post(
            f"{str(self._base).rstrip('/')}/api/token/refresh/", json={"refresh": self._api_key}
        )
        if reply.status_code in _UNAUTHORIZED:
            raise InvalidImage(
                "Label Studio refuses the personal access token in SAM2_LABEL_STUDIO_API_KEY: it has expired or "
                "was revoked. Create another one in its Account & Settings."
            )
        if reply.status_code in _REDIRECTS:
            raise self._moved(reply.headers.get("location", "")[:200])
        try:
            return str(reply.raise_for_status().json()["access"])
        except (httpx.HTTPStatusError, ValueError, KeyError, TypeError) as error:
            raise InvalidImage(f"Label Studio gives no access token: status {reply.status_code}.") from error

    async def _read(self, response: httpx.Response, arrived: Callable[[int], None]) -> bytes:
        if response.status_code in _UNAUTHORIZED:
            raise InvalidImage(
                f"Label Studio refuses the access token for the picture (status {response.status_code}). Set "
                "SAM2_LABEL_STUDIO_API_KEY to one of an account that may see the picture."
            )
        if response.status_code != httpx.codes.OK:
            raise InvalidImage(f"Label Studio answers with status {response.status_code} for the picture.")
        if response.headers.get("content-type", "").startswith("text/html"):
            raise UnsupportedMediaType("Label Studio answers with a page where the picture should be.")
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            raise UnsupportedMediaType("Label Studio's answer is compressed, which was not requested.")
        announced = response.headers.get("content-length", "")
        if announced.isdecimal() and int(announced) > self._max_bytes:
            raise self._too_large()
        return await read_within(
            response.aiter_raw(), self._max_bytes, arrived=arrived, too_large=self._too_large
        )

    def _moved(self, to: str) -> InvalidImage:
        """A login is not sent to where an answer says. Mostly it is https in place of http."""
        return InvalidImage(
            f"Label Studio redirects from {self._base} to {to}: set SAM2_LABEL_STUDIO_URL to its own address."
        )

    def _too_large(self) -> ImageTooLarge:
        return ImageTooLarge(
            f"The picture in Label Studio is larger than {self._max_bytes // 2**20} MiB (SAM2_MAX_UPLOAD_MIB)."
        )


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    ports = {"http": 80, "https": 443}
    return url.scheme, url.host.lower(), url.port or ports.get(url.scheme)
