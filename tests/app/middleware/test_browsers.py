"""Headers for browsers: which sites may call, and what pages may do."""

import re

import httpx
import pytest
from fastapi.responses import HTMLResponse
from pydantic import ValidationError
from starlette.datastructures import Headers

from app.middleware.browsers import may_connect
from app.settings import Settings
from tests.fakes import error, picture, serving

KEY = "anna-0123456789abcdef"
TOOL = "https://tool.example"
ORIGIN = {"Origin": TOOL}


def settings(origins: str = f"{TOOL}, http://localhost:3000") -> Settings:
    """Return settings with a key, and with sites that may call."""
    return Settings(api_keys=f"anna:{KEY}", cors_origins=origins, workers=2)


def preflight(
    origin: str = TOOL, method: str = "POST", headers: str = "content-type,x-api-key"
) -> dict[str, str]:
    """Return the headers of a preflight request, which has no key."""
    return {
        "Origin": origin,
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": headers,
    }


async def test_no_other_site_may_call_unless_it_is_said() -> None:
    async with serving() as served:
        response = await served.client.get("/model", headers=ORIGIN)
        assert not [name for name in response.headers if name.startswith("access-control")]
        asked = await served.client.options("/embed", headers=preflight())
        assert error(asked) == (405, "method_not_allowed")


@pytest.mark.parametrize(("origins", "allowed"), [(f"{TOOL},https://b.example", TOOL), ("*", "*")])
async def test_a_site_that_may_call_can_ask_send_and_read(origins: str, allowed: str) -> None:
    async with serving(settings(origins)) as served:
        for method in ("POST", "DELETE", "GET"):
            asked = await served.client.options("/embed", headers=preflight(method=method))
            assert asked.status_code == 200
            assert asked.headers["access-control-allow-origin"] == allowed
            assert method in asked.headers["access-control-allow-methods"]
            assert "X-API-Key" in asked.headers["access-control-allow-headers"]
        response = await served.client.post(
            "/embed", content=picture(), headers={**ORIGIN, "X-API-Key": KEY, "Content-Type": "image/png"}
        )
        assert response.status_code == 200
        assert response.headers["access-control-allow-origin"] == allowed
        assert "access-control-allow-credentials" not in response.headers
        exposed = response.headers["access-control-expose-headers"].split(", ")
        assert {"Server-Timing", "X-Request-ID", "Retry-After", "ETag", "X-SAM2-Image-ID"} <= set(exposed)


@pytest.mark.parametrize(
    ("written", "sent"),
    [
        ("HTTPS://Tool.Example", TOOL),
        ("https://tool.example:443", TOOL),
        ("http://tool.example:80", "http://tool.example"),
        ("https://tool.example:80", "https://tool.example:80"),
        ("https://tool.example:8443", "https://tool.example:8443"),
        ("app://Tool:443", "app://tool:443"),
    ],
)
async def test_a_site_may_be_written_in_any_way(written: str, sent: str) -> None:
    """These were accepted at the start, and then no page of the site could call."""
    async with serving(settings(written)) as served:
        reply = await served.client.options("/embed", headers=preflight(sent))
        assert reply.headers["access-control-allow-origin"] == sent
        assert may_connect(Headers({"origin": sent, "host": "sam2"}), settings(written).cors_origin_list)


async def test_a_public_site_that_may_call_reaches_a_server_in_a_private_network() -> None:
    """It got 400 'Disallowed CORS private-network. SAM2_CORS_ORIGINS lists the sites', although it is listed."""
    private = {"Access-Control-Request-Private-Network": "true"}
    async with serving(settings()) as served:
        asked = await served.client.options("/embed", headers=preflight() | private)
        assert asked.status_code == 200
        assert asked.headers["access-control-allow-private-network"] == "true"
        asked = await served.client.options("/embed", headers=preflight("https://other.example") | private)
        assert error(asked) == (400, "bad_request")


async def test_errors_of_every_kind_can_be_read_by_the_site(monkeypatch: pytest.MonkeyPatch) -> None:
    key = {"X-API-Key": KEY}

    async def failing(served_headers: dict[str, str], path: str) -> httpx.Response:
        return await served.client.get(path, headers={**ORIGIN, **served_headers})

    async with serving(settings()) as served:
        replies = [
            await failing({}, "/model"),
            await failing(key, "/images/none"),
            await failing(key, "/none"),
        ]
        monkeypatch.setattr(served.service, "store", None)
        replies.append(await failing(key, "/images/truck"))
        monkeypatch.undo()
        served.service.drain()
        replies.append(await failing(key, "/model"))
        assert [error(reply)[0] for reply in replies] == [401, 404, 404, 500, 503]
        for reply in replies:
            assert reply.headers["access-control-allow-origin"] == TOOL
            assert "Retry-After" in reply.headers["access-control-expose-headers"]
            assert reply.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(("origins", "site", "status"), [
    ("", "cross-site", 403), ("https://b.example", "cross-site", 403), (TOOL, "cross-site", 200),
    ("*", "cross-site", 200),
    ("", "same-origin", 200), ("", "none", 200), ("", None, 200),
])  # fmt: skip
async def test_a_form_of_another_site_replaces_no_picture(
    origins: str, site: str | None, status: int
) -> None:
    """A browser sends it without a preflight, and nobody needs to read the reply."""
    headers = {"Origin": TOOL} | ({"Sec-Fetch-Site": site} if site else {})
    async with serving(Settings(workers=2, cors_origins=origins)) as served:
        await served.embed(picture(), "truck")
        form = {"files": {"image": picture(80)}, "data": {"image_id": "truck", "replace": "true"}}
        reply = await served.client.post("/embed", headers=headers, **form)
        assert reply.status_code == status
        if status == 403:
            assert error(reply) == (403, "origin_refused")
            to_a_door = await served.client.post("/sam/", headers=headers, json={})
            assert "SAM2_CORS_ORIGINS" in to_a_door.json()["detail"]
        read = await served.client.get("/images/truck", headers=headers)
        assert read.json()["width"] == (60 if status == 403 else 80)


async def test_a_key_says_who_may_send_a_form() -> None:
    """Pages of other sites have none; and a proxy in front may answer to CORS itself."""
    headers = {"Origin": TOOL, "Sec-Fetch-Site": "cross-site"}
    async with serving(Settings(workers=2, api_keys="anna:0123456789abcdef")) as served:
        files = {"image": picture()}
        assert (await served.client.post("/embed", headers=headers, files=files)).status_code == 401
        headers["X-API-Key"] = "0123456789abcdef"
        assert (await served.client.post("/embed", headers=headers, files=files)).status_code == 200


async def test_other_sites_are_refused_with_the_same_kind_of_error() -> None:
    async with serving(settings()) as served:
        what_it_may = "Pages may send GET, HEAD, POST, DELETE, and set Authorization"
        for asked, advice in (
            (preflight("https://evil.example"), "SAM2_CORS_ORIGINS"),
            (preflight(method="PUT"), what_it_may),
            (preflight(headers="x-other"), what_it_may),
        ):
            response = await served.client.options("/embed", headers=asked)
            assert error(response) == (400, "bad_request")
            assert advice in response.json()["error"]["message"]
        assert response.headers["access-control-allow-origin"] == TOOL
        evil = await served.client.options("/embed", headers=preflight("https://evil.example"))
        assert "access-control-allow-origin" not in evil.headers
        response = await served.client.get("/healthz", headers={"Origin": "https://evil.example"})
        assert "access-control-allow-origin" not in response.headers


@pytest.mark.parametrize(
    "origins", ["tool.example", "https://tool.example/", "https://a b", "https://u@tool"]
)
def test_what_is_no_origin_is_refused(origins: str) -> None:
    with pytest.raises(ValidationError, match="is not an origin"):
        Settings(cors_origins=origins)


async def test_pages_say_what_they_may_load() -> None:
    async with serving() as served:

        @served.app.get("/page", response_class=HTMLResponse)
        async def page() -> str:
            return "<p>ours</p>"

        @served.app.get("/own")
        async def own() -> HTMLResponse:
            return HTMLResponse("", headers={"Content-Security-Policy": "default-src 'none'"})

        page_headers = (await served.client.get("/page")).headers
        policy = page_headers["content-security-policy"]
        assert policy.startswith("default-src 'self';")
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert page_headers["x-content-type-options"] == "nosniff"
        assert page_headers["referrer-policy"] == "no-referrer"
        own_headers = (await served.client.get("/own")).headers
        assert own_headers["content-security-policy"] == "default-src 'none'"
        json_headers = (await served.client.get("/model")).headers
        assert "content-security-policy" not in json_headers
        assert json_headers["x-content-type-options"] == "nosniff"


async def test_docs_load_files_beside_them_alone() -> None:
    """So they show where no other host is reached. tests/page/test_docs.py opens them."""
    async with serving() as served:
        response = await served.client.get("/docs")
        found = re.findall(r'(?:src|href)="([^"]+)"', response.text)
        assert len(found) == 3
        for address in found:
            reply = await served.client.get(f"/{address}", headers={"Accept-Encoding": "gzip"})
            assert reply.status_code == 200, address
            assert reply.headers["content-encoding"] == "gzip"
            again = await served.client.get(f"/{address}", headers={"If-None-Match": reply.headers["etag"]})
            assert again.status_code == 304
        assert (await served.client.get("/docs/favicon-32x32.png")).status_code == 404
        policy = response.headers["content-security-policy"]
        assert "//" not in policy
        assert "frame-ancestors" in policy
