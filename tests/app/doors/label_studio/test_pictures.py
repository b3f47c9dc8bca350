"""Where pictures come from: Label Studio with its login, and nowhere else unless URLs are allowed."""

import asyncio
import base64
import json
from typing import Any, cast

import pytest
import trustme
from pydantic import ValidationError

from app.codecs.answers import Decoded
from app.errors import ImageNotFound
from app.routes.remote_pictures import RemotePictures
from app.service.segmentation import Embedded
from app.settings import Settings
from tests.app.doors.label_studio.studio import PERSONAL, body, connected, key_point
from tests.app.routes.imagined_web import HOST, URL, redirect, reply, web
from tests.fakes import Served, picture, serving

PATH = "/data/upload/1/a.png"


async def look(served: Served, address: str, *, task: int = 7) -> tuple[int, str]:
    sent = body(key_point(), data={"image": address})
    sent["tasks"][0]["id"] = task
    answer = await served.post("/label-studio/predict", sent)
    return answer.status_code, answer.json().get("detail", "")


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA(key_type=trustme.KeyType.ECDSA)


async def test_paths_and_whole_addresses_of_label_studio() -> None:
    async with connected() as (served, studio):
        studio.pictures["/tasks/7/resolve/?fileuri=abc"] = picture(shade=1)
        studio.pictures["/data/local-files/?d=birds%2Fa.png"] = picture(shade=2)
        for address in (
            PATH,
            studio.url + PATH,
            "/tasks/7/resolve/?fileuri=abc",
            "/data/local-files/?d=birds%2Fa.png",
            f" {PATH}",
            f"{studio.url}{PATH}\r\n",
        ):
            assert await look(served, address) == (200, "")
        assert {authorization for _, authorization in studio.requests} == {"Token legacy"}
        assert not any("%20" in path for path, _ in studio.requests)


async def test_addresses_of_storages_are_opened_by_label_studio() -> None:
    async with connected() as (served, studio):
        for address in ("s3://birds/a b.png", "gs://birds/ä.png"):
            uri = base64.urlsafe_b64encode(address.encode()).decode()
            studio.pictures[f"/tasks/7/resolve/?fileuri={uri}"] = picture()
            assert await look(served, address) == (200, "")
        studio.redirects["/tasks/7/resolve/?fileuri=abc"] = PATH
        assert await look(served, "/tasks/7/resolve/?fileuri=abc") == (200, "")


async def test_half_of_a_pair_of_surrogates_is_no_address() -> None:
    async with connected() as (served, _):
        sent = json.dumps(body(key_point(), data={"image": "s3://\ud800/a"}))
        reply = await served.client.post("/label-studio/predict", content=sent)
        assert (reply.status_code, "tasks[0]" in reply.text) == (422, True)


async def test_a_label_studio_below_a_path() -> None:
    async with connected(path="/studio/") as (served, studio):
        studio.pictures = {f"/studio{PATH}": picture()}
        assert await look(served, PATH) == (200, "")
        assert await look(served, f"/studio{PATH}") == (200, "")
        assert (await look(served, f"{studio.url}/data/upload/1/a.png"))[0] == 422


@pytest.mark.parametrize(
    "address",
    [
        "/api/users/",
        "/data/../api/users/",
        "/data/%2e%2e/api/users/",
        "/data/%252e%252e/api/users/",
        "/data/..%5capi/users/",
        "/data/",
        "/tasks/7/resolve/../../api",
        "/",
        "/user/logout",
        "//internal.example/data/a.png",
        "\\\\internal\\a.png",
        "data/upload/a.png",
        "file:///etc/passwd",
        "ftp://internal/a.png",
        "http://anna:secret@{host}/data/upload/1/a.png",
        "http://[::1/a.png",
        "",
    ],
)
async def test_paths_that_serve_no_pictures_are_not_asked_for(address: str) -> None:
    async with connected() as (served, studio):
        status, detail = await look(served, address.replace("{host}", studio.url.removeprefix("http://")))
        assert status == 422
        assert detail
        asked = [path for path, _ in studio.requests]
        assert all(path.startswith("/tasks/7/resolve/?fileuri=") for path in asked)


async def test_no_other_address_is_fetched_and_none_gets_the_login() -> None:
    async with connected() as (served, studio), connected() as (_, other):
        studio.redirects = {PATH: other.url + PATH, "/data/upload/1/loop.png": "/data/upload/1/loop.png"}
        for address in (
            PATH,
            other.url + PATH,
            "http://169.254.169.254/data/a.png",
            "https://pictures.example/a.png",
        ):
            status, detail = await look(served, address)
            assert status == 422
            assert "SAM2_ALLOW_URLS" in detail
        assert other.requests == []
        assert "redirects more than" in (await look(served, "/data/upload/1/loop.png"))[1]


async def test_where_urls_are_allowed_the_login_still_stays_with_label_studio(authority: trustme.CA) -> None:
    async with web(authority) as here, connected() as (served, studio):
        _use(served, here.pictures)
        here.replies["/truck.png"] = reply(picture())
        studio.redirects[PATH] = URL
        assert await look(served, PATH) == (200, "")
        assert await look(served, URL) == (200, "")
        assert len(here.requests) == 2
        assert all(b"authorization" not in request.lower() for request in here.requests)
        assert (await look(served, "http://127.0.0.1:1/a.png"))[0] == 422


def _use(served: Served, pictures: RemotePictures) -> None:
    """Let the running service fetch from an imagined web."""
    served.app.state.label_studio_pictures._remote = pictures
    if (server := served.app.state.label_studio_pictures._server) is not None:
        server._remote = pictures


async def test_what_setup_says_counts_within_the_rules_for_urls(authority: trustme.CA) -> None:
    async with serving() as served:
        setup = {"project": "1.1795860000", "hostname": f"https://{HOST}", "access_token": "of-the-owner"}
        await served.post("/label-studio/setup", setup)
        status, detail = await look(served, PATH)
        assert status == 422
        assert "SAM2_LABEL_STUDIO_URL" in detail
        async with web(authority) as here:
            _use(served, here.pictures)
            here.replies[PATH] = reply(picture())
            assert await look(served, PATH) == (200, "")
            assert b"Authorization: Token of-the-owner" in here.requests[0]
            await served.post("/label-studio/setup", setup | {"hostname": "http://127.0.0.1:8080"})
            status, detail = await look(served, "/data/upload/2.png")
            assert (status, "https://" in detail) == (422, True)


async def test_a_redirect_of_a_host_from_setup_takes_no_token_along(authority: trustme.CA) -> None:
    async with web(authority, certificate_of="a.example.org") as here:
        here.names = dict.fromkeys(("a.example.org", "b.example.org"), here.names[HOST])
        here.replies |= {"/a": redirect("https://b.example.org/b"), "/b": reply(b"a picture")}
        data = await here.pictures.fetch(
            "https://a.example.org/a", arrived=lambda _: None, authorization="Token t"
        )
        assert data == b"a picture"
        first, second = here.requests
        assert b"Authorization: Token t" in first
        assert b"authorization" not in second.lower()


async def test_the_token_that_setup_brings_goes_to_the_address_of_the_settings() -> None:
    async with connected(key="") as (served, studio):
        assert (await look(served, PATH))[0] == 422
        setup = {"project": "1.1795860000", "hostname": "http://evil.example", "access_token": "legacy"}
        await served.post("/label-studio/setup", setup)
        assert await look(served, PATH) == (200, "")
        assert [authorization for _, authorization in studio.requests] == ["", "Token legacy"]


async def test_personal_access_tokens_are_exchanged_and_renewed() -> None:
    async with connected(key=PERSONAL) as (served, studio):
        for number in range(4):
            studio.pictures[f"/data/{number}.png"] = picture(shade=number)
        clicks = [look(served, f"/data/{number}.png") for number in range(3)]
        assert await asyncio.gather(*clicks) == [(200, "")] * 3
        assert studio.refreshed == 1
        studio.tokens = {"Bearer nothing"}  # it has forgotten the access token, before its time is over
        assert await look(served, "/data/3.png") == (200, "")
        assert studio.refreshed == 2


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        ({"tokens": {"Token another"}}, "refuses the access token"),
        ({"pictures": {}}, "status 404"),
        ({"redirects": {PATH: "/user/login/?next=/data"}}, "asks for a login"),
        ({"redirects": {PATH: "http://[::1/"}}, "Invalid URL"),
        (
            {"redirects": {PATH: f"https://127.0.0.1{PATH}"}},
            "to https://127.0.0.1: set SAM2_LABEL_STUDIO_URL",
        ),
        ({"pictures": {PATH: bytes(2**20 + 1)}}, "larger than 1 MiB"),
    ],
    ids=lambda value: str(value)[:30],
)
async def test_what_is_wrong_on_label_studios_side(prepare: dict[str, Any], message: str) -> None:
    async with connected(max_upload_mib=1) as (served, studio):
        for name, value in prepare.items():
            setattr(studio, name, value)
        status, detail = await look(served, PATH)
        assert status in (413, 422)
        assert message in detail


async def test_a_personal_token_that_is_refused_and_a_server_that_is_gone() -> None:
    async with connected(key=PERSONAL) as (served, studio):
        studio.refuses_refresh = True
        assert "expired or was revoked" in (await look(served, PATH))[1]
        studio.redirects = {"/api/token/refresh/": "https://127.0.0.1/api/token/refresh/"}
        assert "to https://127.0.0.1/api/token/refresh/: set SAM2_LABEL" in (await look(served, PATH))[1]
        server: Any = served.app.state.label_studio_pictures._server
        server._base = server._base.copy_with(port=1)
        assert "cannot be reached at http://127.0.0.1:1" in (await look(served, PATH))[1]


async def test_a_picture_that_is_gone_is_fetched_again_by_all_who_find_so_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The second one to find so got 500."""
    both = asyncio.Barrier(2)

    async def gone(image_id: str, **_: Any) -> Embedded:
        await both.wait()
        raise ImageNotFound.fallen_out(image_id)

    async with connected() as (served, _):
        assert await look(served, PATH) == (200, "")
        monkeypatch.setattr(served.app.state.service, "recall", gone)
        assert await asyncio.gather(look(served, PATH), look(served, PATH)) == [(200, "")] * 2


async def test_a_picture_that_gives_way_before_its_click_is_decoded_is_embedded_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with connected() as (served, _):
        service = served.app.state.service
        decode, waiting = service.decode, [picture(shade=1), picture(shade=2)]

        async def after_others(image_id: str, *arguments: Any, **options: Any) -> Decoded:
            if waiting:
                await service.delete(image_id, tenant=options["tenant"])
                assert (await served.embed(waiting.pop())).status_code == 200
            return cast(Decoded, await decode(image_id, *arguments, **options))

        monkeypatch.setattr(service, "decode", after_others)
        assert (await look(served, PATH))[0] == 404
        waiting[:] = [picture(shade=3)]
        assert await look(served, PATH) == (200, "")


def test_the_settings_belong_together() -> None:
    with pytest.raises(ValidationError, match="SAM2_LABEL_STUDIO_URL only"):
        Settings(label_studio_api_key="secret")
    for text in ("label-studio", "ftp://a", "http://a b", "http://anna:secret@a", "http://a?b"):
        with pytest.raises(ValidationError, match="is not an address"):
            Settings(label_studio_url=text)
    assert Settings(label_studio_url="http://a:8080/b/").label_studio_url == "http://a:8080/b"


def test_no_secret_is_shown() -> None:
    settings = Settings(label_studio_url="http://a", label_studio_api_key="secret")
    assert "secret" not in repr(settings)
