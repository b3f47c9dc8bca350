"""Clients with a key are served, others get 401, and no key is ever shown."""

import asyncio
import base64
import hashlib
import logging
from pathlib import Path
from typing import Annotated

import httpx
import pytest
from fastapi import Depends, FastAPI

from app import __main__ as command
from app.middleware.access import ANYONE
from app.middleware.callers import share_of, tenant_of
from app.middleware.keys import ApiKeys, KeysError
from app.settings import Settings
from tests.fakes import Served, error, picture, serving

pytestmark = pytest.mark.usefixtures("restored_process")  # some of them run the command

ANNA = "anna-0123456789abcdef"
BERT = "bert-0123456789abcdef"
PAIRS = f"anna:{ANNA}, bert:{BERT}"


def digest(key: str) -> str:
    """Return the digest of a key, as in a file of keys."""
    return hashlib.sha256(key.encode()).hexdigest()


def bearer(key: str) -> dict[str, str]:
    """Return the header with a key."""
    return {"Authorization": f"Bearer {key}"}


def settings(**others: object) -> Settings:
    """Return settings with two keys."""
    return Settings(**{"api_keys": PAIRS, "workers": 2} | others)


def add_who(app: FastAPI) -> None:
    """Add a route that returns the tenant and the share of its client."""

    @app.get("/who")
    async def who(
        tenant: Annotated[str, Depends(tenant_of)], share: Annotated[str, Depends(share_of)]
    ) -> list[str]:
        return [tenant, share]


def test_pairs_and_files_of_digests_name_owners(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(f"# ours\n\nanna:{digest(ANNA)}  # the first\n bert : {digest(BERT).upper()}\n")
    for keys in (ApiKeys(PAIRS), ApiKeys(str(path))):
        assert keys
        assert keys.owner(ANNA) == "anna"
        assert keys.owner(BERT) == "bert"
        for wrong in ("", "anna", ANNA[:-1], ANNA + "x", digest(ANNA), ANNA.upper(), "\udcff"):
            assert keys.owner(wrong) is None
        assert digest(ANNA) not in repr(vars(keys))
    assert not ApiKeys("")


def test_a_file_may_be_as_its_tools_write_it(tmp_path: Path) -> None:
    """Seen: 'create the digest with printf %s KEY | sha256sum', of a line that was created so."""
    path = tmp_path / "keys"
    path.write_bytes(f"\ufeffanna:{digest(ANNA)}  -\r\nbert:{digest(BERT)} *-\r\n".encode())
    with pytest.raises(KeysError, match="line 2"):
        ApiKeys(str(path))
    path.write_bytes(f"\ufeffanna:{digest(ANNA)}  -\r\nbert:{digest(BERT)}\r\n".encode())
    keys = ApiKeys(str(path))
    assert (keys.owner(ANNA), keys.owner(BERT)) == ("anna", "bert")


def test_a_name_may_have_two_keys_while_one_replaces_the_other() -> None:
    keys = ApiKeys(f"anna:{ANNA},anna:{BERT}")
    assert keys.owner(ANNA) == keys.owner(BERT) == "anna"
    with pytest.raises(KeysError, match="'anna' and 'bert' have the same key"):
        ApiKeys(f"anna:{ANNA},bert:{ANNA}")


def test_every_key_is_compared_whichever_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """For constant time: the search does not end at the key that matches."""
    compared: list[bytes] = []
    keys = ApiKeys(PAIRS)

    def compare(known: bytes, given: bytes) -> bool:
        compared.append(known)
        return known == given

    monkeypatch.setattr("app.middleware.keys.hmac.compare_digest", compare)
    for key in (ANNA, BERT, "neither"):
        compared.clear()
        keys.owner(key)
        assert len(compared) == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"anna:{ANNA},{BERT}", "pair 2 is not name:key"),
        (f"an na:{ANNA}", "pair 1 is not name:key"),
        ("anna:short", "'anna' has fewer than 16"),
        (f"anna:{ANNA}\nbert:{BERT}", "pairs are separated by commas"),  # both lines were one key, for nobody
        (f"anna:{ANNA}\udce9", "not UTF-8"),  # of a shell in Latin-1: no client could send it
        (ANNA, "neither name:key pairs nor a readable file"),
        ("/nowhere/keys", "neither name:key pairs nor a readable file"),
    ],
)
def test_keys_that_cannot_be_used_end_the_start_and_are_not_shown(
    text: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["--checkpoint", "/nowhere.pt", "--api-keys", text]) == 2
    said = capsys.readouterr().err
    assert said.startswith("SAM2_API_KEYS: ")
    assert words in said
    assert not any(secret in said for secret in (ANNA, BERT, "short", "nowhere"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no keys"),
        ("# none\n", "holds no keys"),
        (f"anna:{digest(ANNA)}\nbert:{BERT}\n", "line 2"),
        (f"{digest(ANNA)}\n", "line 1"),
    ],
)
def test_a_file_that_holds_something_else_is_refused(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(text)
    with pytest.raises(KeysError, match=words) as refusal:
        ApiKeys(str(path))
    assert BERT not in str(refusal.value)


def test_a_file_is_read_anew_and_a_broken_one_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "keys"
    path.write_text(f"anna:{digest(ANNA)}\n")
    keys = ApiKeys(str(path))
    path.write_text(f"bert:{digest(BERT)}\n")
    keys.reload()
    assert (keys.owner(ANNA), keys.owner(BERT)) == (None, "bert")
    path.write_text(f"anna:{ANNA}\n")
    keys.reload()
    assert (keys.owner(ANNA), keys.owner(BERT)) == (None, "bert")
    assert "current ones stay valid: line 1" in caplog.text
    assert ANNA not in caplog.text
    path.unlink()
    keys.reload()
    assert keys.owner(BERT) == "bert"
    pairs = ApiKeys(PAIRS)
    pairs.reload()
    assert pairs.owner(ANNA) == "anna"


async def test_everything_but_health_and_docs_needs_a_key() -> None:
    async with serving(settings()) as served:
        for path in ("/healthz", "/readyz", "/docs", "/docs/swagger-ui.css", "/openapi.json"):
            assert (await served.client.get(path)).status_code == 200
        for path in ("/", "/page/main.js", "/client.js", "/client/index.js"):
            assert (await served.client.get(path)).status_code != 401
        closed = [
            ("POST", "/embed"),
            ("POST", "/decode"),
            ("POST", "/segment"),
            ("POST", "/everything"),
            ("GET", "/images"),
            ("GET", "/images/truck"),
            ("DELETE", "/images/truck"),
            ("GET", "/images/truck/embedding"),
            ("GET", "/videos"),
            ("POST", "/videos"),
            ("GET", "/videos/clip"),
            ("DELETE", "/videos/clip"),
            ("GET", "/videos/clip/frames/0"),
            ("GET", "/tracks"),
            ("GET", "/tracks/walk"),
            ("POST", "/tracks/walk/prompts"),
            ("POST", "/tracks/walk/propagate"),
            ("DELETE", "/tracks/walk/objects/1"),
            ("DELETE", "/tracks/walk/objects/1/prompts/0"),
            ("POST", "/propagate"),
            ("GET", "/model"),
            ("GET", "/cluster"),
            ("GET", "/metrics"),
            ("GET", "/nowhere"),
            ("GET", "/healthz/"),
            ("GET", "/page"),
            ("GET", "/client"),
        ]
        documented = set((await served.client.get("/openapi.json")).json()["paths"])
        named = {"image_id": "truck", "video_id": "clip", "track_id": "walk", "object": 1, "n": 0, "frame": 0}
        tried = {path for _, path in closed}
        assert {path.format(**named) for path in documented - {"/healthz", "/readyz"}} <= tried
        for method, path in closed:
            for headers in ({}, bearer("wrong"), bearer(""), {"X-API-Key": ANNA[:-1]}):
                response = await served.client.request(method, path, headers=headers)
                assert error(response) == (401, "unauthorized"), path
                assert response.headers["www-authenticate"] == 'Bearer realm="sam2"'
                assert response.headers["x-request-id"]
        figures = (await served.client.get("/metrics", headers=bearer(ANNA))).text
        assert f'sam2_rejections_total{{code="unauthorized"}} {4 * len(closed)}.0' in figures
        assert (await served.client.get("/images", headers=bearer(ANNA))).status_code == 200


async def test_figures_can_be_left_open() -> None:
    async with serving(settings(open_metrics=True)) as served:
        assert (await served.client.get("/metrics")).status_code == 200
        assert error(await served.client.get("/model")) == (401, "unauthorized")


async def test_a_key_comes_in_any_usual_header_and_its_name_is_the_tenant() -> None:
    basic = base64.b64encode(f"anybody:{BERT}".encode()).decode()
    async with serving(settings()) as served:
        add_who(served.app)
        for headers, name in (
            (bearer(ANNA), "anna"),
            ({"Authorization": f"bearer  {BERT} "}, "bert"),
            ({"X-API-Key": BERT}, "bert"),
            ({"Authorization": f"Basic {basic}"}, "bert"),
            ({"Authorization": "Basic  " + basic.rstrip("=")}, "bert"),
            ({"Authorization": "Basic c29tZSBwcm94eQ==", "X-API-Key": ANNA}, "anna"),
        ):
            response = await served.client.get("/who", headers=headers)
            assert response.json() == [name, name]
        for value in ("Basic %%%", "Basic /w==", "Basic", "Digest x", ANNA):
            response = await served.client.get("/who", headers={"Authorization": value})
            assert error(response) == (401, "unauthorized")


@pytest.mark.parametrize("key", ["größer-als-sechzehn", "пароль-из-букв-и-слов", "three words and more"])
async def test_a_key_may_have_any_letters(key: str) -> None:
    """Programs write UTF-8 into headers; browsers write Latin-1, and refuse what is beyond it."""
    async with serving(settings(api_keys=f"anna:{key}")) as served:
        add_who(served.app)
        written = [key.encode()] + ([key.encode("latin-1")] if "ö" in key else [])
        for text in written:
            basic = b"Basic " + base64.b64encode(b"anna:" + text)  # the library requests writes Latin-1
            for headers in (
                {b"Authorization": b"Bearer " + text},
                {b"Authorization": basic},
                {b"X-API-Key": text},
            ):
                assert (await served.client.get("/who", headers=headers)).json() == ["anna", "anna"]
        reply = await served.client.get("/who", headers={b"X-API-Key": b"\xff" + written[0]})
        assert error(reply) == (401, "unauthorized")


async def test_without_keys_all_see_the_same_and_each_address_has_a_share_of_its_own() -> None:
    async with serving() as served:
        add_who(served.app)
        for address, share in (
            ("192.0.2.7", "192.0.2.7"),
            ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
            ("::ffff:192.0.2.7", "192.0.2.7"),  # all of IPv4 shared one share, ::/64
            ("::FFFF:c000:0208", "192.0.2.8"),
            ("/run/sam2.sock", "/run/sam2.sock"),
        ):
            transport = httpx.ASGITransport(served.app, client=(address, 1234))
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                assert (await client.get("/who")).json() == [ANYONE, share]
        assert ANYONE == ""


async def test_a_key_stands_in_no_reply_no_log_and_no_error(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    async with serving(settings()) as served:
        replies = [
            await served.client.get(path, headers=headers)
            for path in ("/model", "/openapi.json", "/metrics", "/nowhere", "/images/none")
            for headers in (bearer(ANNA), {"X-API-Key": "wrong-" + BERT}, {})
        ]
        replies.append(
            await served.client.post(
                "/embed", content=b"x", headers={**bearer(ANNA), "Content-Type": "image/png"}
            )
        )
        shown = "".join(reply.text + str(reply.headers) for reply in replies)
    given = settings()
    shown += caplog.text + repr(given) + str(given) + str(given.model_dump()) + given.model_dump_json()
    with pytest.raises(SystemExit):
        command.read_settings(["--help"])
    assert command.main(["--api-keys", PAIRS, "--port", "eighty"]) == 2
    said = capsys.readouterr()
    for secret in (ANNA, BERT, digest(ANNA), digest(BERT)):
        assert secret not in shown + said.out + said.err


async def test_docs_offer_to_enter_a_key_where_one_is_needed() -> None:
    async with serving(settings()) as served:
        document = (await served.client.get("/openapi.json")).json()
        assert document["components"]["securitySchemes"]["bearer"] == {"type": "http", "scheme": "bearer"}
        assert document["security"] == [{"bearer": []}, {"key": []}]
    async with serving() as served:
        assert "security" not in (await served.client.get("/openapi.json")).json()


async def test_an_upload_without_a_key_is_refused_before_its_body_is_read() -> None:
    async def body() -> object:
        raise AssertionError("it was read")
        yield b""

    async with serving(settings()) as served:
        response = await served.client.post("/embed", content=body())  # type: ignore[arg-type]
        assert error(response) == (401, "unauthorized")


async def test_a_working_day_with_a_key() -> None:
    async with serving(settings()) as served:
        served.client.headers.update(bearer(ANNA))
        anna = Served(served.app, served.client, served.segmenter)
        assert (await anna.embed(picture(), "truck")).status_code == 200
        clicks = await asyncio.gather(*(anna.click("truck") for _ in range(5)))
        assert [click.status_code for click in clicks] == [200] * 5


def test_a_file_in_the_home_of_nobody_is_refused() -> None:
    with pytest.raises(KeysError, match="write the path without ~"):
        ApiKeys("~nobody-of-this-name/keys")
