"""What the environment says of proxies and certificates: what cannot be used is named, not met as a traceback."""

import asyncio
import os
import sys

import pytest
from client_server import Served

import sam2_client
from sam2_client import AsyncClient, Client
from tests.server import free_port


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


async def _asyncs() -> None:
    async with AsyncClient():
        pass


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("ALL_PROXY", "socks4://127.0.0.1:1", "ALL_PROXY.*Unknown scheme"),
        ("HTTP_PROXY", "ftp://host", "HTTP_PROXY.*Unknown scheme"),
        ("NO_PROXY", "[::1]", "NO_PROXY.*without brackets"),
        ("SSL_CERT_FILE", "nowhere.pem", "SSL_CERT_FILE.*No such file"),
    ],
)
def test_what_cannot_be_used_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=words):
        Client()
    with pytest.raises(ValueError, match=words):
        asyncio.run(_asyncs())


def test_socks_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "socksio", None)
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:1")
    with pytest.raises(ValueError, match=r"ALL_PROXY.*httpx\[socks\]"):
        Client()


def test_a_proxy_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch, served: Served) -> None:
    monkeypatch.setenv("http_proxy", f"http://name:secret@127.0.0.1:{free_port()}")
    with Client(served.url, retries=0) as client, pytest.raises(sam2_client.ConnectionFailed) as caught:
        client.images()
    assert "HTTP_PROXY is set" in caught.value.message
    assert "secret" not in caught.value.message
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Client(served.url) as client:
        client.images()
    with Client(f"http://127.0.0.1:{free_port()}", retries=0) as client:
        with pytest.raises(sam2_client.ConnectionFailed) as caught:
            client.images()
        assert "PROXY" not in caught.value.message
