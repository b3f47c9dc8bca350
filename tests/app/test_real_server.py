"""A real server in its own process: how it treats clients of every kind, and how it stops while they wait."""

import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from tests.app.server_process import CLICK, RealServer, embed, real_server
from tests.fakes import LONG_S, error, picture


def test_a_real_server_under_clients_of_every_kind(tmp_path: Path) -> None:
    with real_server(tmp_path) as server, server.client() as client:
        assert embed(client, picture(), "truck").status_code == 200
        chunked_body_over_the_limit(server)
        body_over_the_limit_on_a_connection_that_lives_on(server)
        requests_in_one_packet(server)
        client_that_goes_away(server)
        stop_while_requests_wait(server)
        log = server.log.read_text()
        assert "never retrieved" not in log
        assert "Traceback" not in log


def chunked_body_over_the_limit(server: RealServer) -> None:
    """It is rejected before its end, in bounded memory, and the next request works."""
    before = server.memory_mib()

    def body() -> Iterator[bytes]:
        for _ in range(400):
            yield bytes(2**20)

    with server.client() as client:
        try:
            response = embed(client, body(), "big")  # type: ignore[arg-type]
        except httpx.TransportError:
            pass  # a server may close the connection of a client that keeps sending
        else:
            assert error(response) == (413, "image_too_large")
    assert server.memory_mib() - before < 50
    with server.client() as client:
        assert client.post("/decode", json=CLICK).status_code == 200


def body_over_the_limit_on_a_connection_that_lives_on(server: RealServer) -> None:
    with server.client() as client:
        for _ in range(3):
            assert error(embed(client, bytes(3 * 2**20), "big")) == (413, "image_too_large")
            assert client.post("/decode", json=CLICK).status_code == 200


def requests_in_one_packet(server: RealServer) -> None:
    """They are pipelined: watching for a disconnect must not consume the client's next request."""
    body = b'{"image_id": "truck", "box": [1, 2, 3, 4]}'
    request = b"POST /decode HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=LONG_S) as connection:
        connection.sendall(request * 5)
        received = b""
        while received.count(b'"predictions"') < 5:
            piece = connection.recv(65536)
            assert piece, received
            received += piece
    assert received.count(b"HTTP/1.1 200 OK") == 5


def client_that_goes_away(server: RealServer) -> None:
    """Its place in the queue is freed, and /healthz answers while the device is blocked."""
    server.block()
    with server.client() as client, ThreadPoolExecutor(1) as threads:
        running = threads.submit(client.post, "/decode", json=CLICK)
        server.wait_until_entered()
        host, port = server.url.removeprefix("http://").split(":")
        body = b'{"image_id": "truck", "box": [1, 2, 3, 4]}'
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(
                b"POST /decode HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s"
                % (len(body), body)
            )
            server.wait_until(lambda: server.waiting("prompts") == 1)
        server.wait_until(lambda: server.waiting("prompts") == 0)
        with server.client() as other:
            assert other.get("/healthz").status_code == 200
        server.hold.unlink()
        assert running.result().status_code == 200


def stop_while_requests_wait(server: RealServer) -> None:
    """Waiting requests and half uploads get an error at once, running ones are finished, and the exit is clean."""
    server.block()
    with server.client() as client, ThreadPoolExecutor(8) as threads:
        running = threads.submit(client.post, "/decode", json=CLICK)
        server.wait_until_entered()
        clicks = [threads.submit(client.post, "/decode", json=CLICK) for _ in range(2)]
        uploads = [threads.submit(embed, client, picture(shade=shade), f"p{shade}") for shade in (1, 2)]
        server.wait_until(lambda: server.waiting("prompts") == 2 and server.waiting("images") == 2)
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=LONG_S) as half:
            head = b"POST /embed HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/x\r\nContent-Length: 9\r\n\r\n"
            half.sendall(head + b"half")
            with server.client() as other:  # the connection before it has been accepted by then
                other.get("/healthz")
            server.process.send_signal(signal.SIGTERM)
            assert half.recv(65536).startswith(b"HTTP/1.1 503 ")
        for call in [*clicks, *uploads]:
            response = call.result()
            assert error(response) == (503, "shutting_down")
            assert int(response.headers["retry-after"]) >= 1
        assert not running.done()
        server.hold.unlink()
        assert running.result().status_code == 200
    assert server.process.wait(LONG_S) == 0
