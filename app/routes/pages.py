"""Serves the page at / with its files below /page/, /docs, and the JavaScript client: /client.js and /client/.

Does not know about pictures and masks: both call the same endpoints as every client.
"""

import gzip
import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

from fastapi import HTTPException, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html

from app.middleware.browsers import PAGE_POLICY
from app.routes.accepted import weights
from app.routes.endpoints import new_router
from app.routes.etags import client_has

router = new_router(include_in_schema=False)

_APP = Path(__file__).parents[1]
_PAGE = _APP / "page"
# A wheel holds client/js of the repository as app/client_js; see setup.py.
_CLIENT = next(path for path in (_APP / "client_js", _APP.parent / "client" / "js") if path.is_dir())
_ENTRY = b'/** The JavaScript client of this server. */\n\nexport * from "./client/index.js";\n'
_MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".jpg": "image/jpeg",
}
_SWAGGER = ("swagger-ui-bundle.js", "swagger-ui.css")
_HEADERS = {
    "Content-Security-Policy": PAGE_POLICY,
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # revalidated each time, and answered with 304
    "Vary": "Accept-Encoding",
}


@dataclass(frozen=True, slots=True)
class _File:
    """A file of the page, ready to send."""

    content: bytes
    compressed: bytes
    media_type: str
    etag: str


def _file(content: bytes, suffix: str) -> _File:
    return _File(
        content=content,
        compressed=gzip.compress(content, mtime=0),
        media_type=_MEDIA_TYPES[suffix],
        etag=f'"{hashlib.sha256(content).hexdigest()[:32]}"',
    )


_FILES = {"client.js": _file(_ENTRY, ".js")} | {
    f"{name}/{path.name}": _file(path.read_bytes(), path.suffix)
    for name, folder in (("page", _PAGE), ("page/video", _PAGE / "video"), ("client", _CLIENT))
    for path in sorted(folder.iterdir())
    if path.suffix in _MEDIA_TYPES
}


@router.get("/")
async def page(request: Request) -> Response:
    """The page itself."""
    return _reply(request, "page/index.html")


@router.get("/docs")
async def docs(request: Request) -> Response:
    """FastAPI's page of the API. It asks for files beside it alone: below a proxy's path, and offline."""
    return get_swagger_ui_html(
        openapi_url="openapi.json",
        title=f"{request.app.title} - Swagger UI",
        swagger_js_url=f"docs/{_SWAGGER[0]}",
        swagger_css_url=f"docs/{_SWAGGER[1]}",
        swagger_favicon_url="page/icon.svg",
    )


@router.get("/docs/{name}")
def docs_file(request: Request, name: str) -> Response:
    """The script or the style sheet of Swagger UI. 404 for everything else. In a thread: they are large."""
    return _send(request, _swagger(name) if name in _SWAGGER else None)


@router.get("/page/{name}")
async def page_file(request: Request, name: str) -> Response:
    """A script, the style sheet, the icon or the sample picture. 404 for everything else."""
    return _reply(request, f"page/{name}")


@router.get("/page/video/{name}")
async def video_file(request: Request, name: str) -> Response:
    """A file of the page's part for videos, which it loads when the first one comes. 404 for everything else."""
    return _reply(request, f"page/video/{name}")


@router.get("/client.js")
async def client(request: Request) -> Response:
    """The JavaScript client, for `import` in a page, also of another origin (SAM2_CORS_ORIGINS)."""
    return _reply(request, "client.js")


@router.get("/client/{name}")
async def client_file(request: Request, name: str) -> Response:
    """A module of the JavaScript client. 404 for everything else."""
    return _reply(request, f"client/{name}")


@cache
def _swagger(name: str) -> _File:
    return _file((files("fastapi_swagger") / "resources" / name).read_bytes(), Path(name).suffix)


def _reply(request: Request, name: str) -> Response:
    return _send(request, _FILES.get(name))


def _send(request: Request, file: _File | None) -> Response:
    if file is None:
        raise HTTPException(404, "Not Found")
    zipped = _reads_gzip(request)
    # Weak: the same file, compressed or not.
    headers = _HEADERS | {"ETag": f"W/{file.etag}"}
    if client_has(request, file.etag):
        return Response(status_code=304, headers=headers)
    if zipped:
        headers["Content-Encoding"] = "gzip"
    return Response(file.compressed if zipped else file.content, media_type=file.media_type, headers=headers)


def _reads_gzip(request: Request) -> bool:
    """Whether Accept-Encoding names gzip, and likes no encoding at all no better (RFC 9110, 12.5.3)."""
    accepted = weights(request.headers, "accept-encoding")
    zipped = max(accepted.get("gzip", 0.0), accepted.get("x-gzip", 0.0))
    return zipped > 0 and zipped >= accepted.get("identity", 0.0)
