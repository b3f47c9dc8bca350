"""What the environment says of proxies and certificates: what cannot be used is named, not met as a traceback."""

import asyncio
import os
import socket
import ssl
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest
import trustme
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


def test_a_certificate_of_an_authority_of_ones_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    authority = trustme.CA()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer_once() -> None:
            with (
                suppress(OSError),
                listener.accept()[0] as raw,
                tls.wrap_socket(raw, server_side=True) as talk,
            ):
                talk.recv(4096)
                talk.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\nConnection: close\r\n\r\nnone")

        def ask() -> str:
            server = threading.Thread(target=answer_once)
            server.start()
            url = f"https://127.0.0.1:{listener.getsockname()[1]}"
            with Client(url, retries=0) as client, pytest.raises(sam2_client.Sam2Error) as caught:
                client.images()
            server.join()
            return caught.value.message

        assert "set SSL_CERT_FILE" in ask()
        authority.cert_pem.write_to_path(tmp_path / "authority.pem")
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
        assert "404 Not Found" in ask()


def test_tls_with_a_server_that_has_none(served: Served) -> None:
    url = served.url.replace("http://", "https://")
    with Client(url, retries=0) as client, pytest.raises(sam2_client.ConnectionFailed, match="try http://"):
        client.images()
