"""A web tool's own site: another origin than the server's. Does not know what its page does."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextmanager
def site_with(page: list[bytes]) -> Iterator[str]:
    """Yield the origin of a site that answers every GET with the last of `page`.

    It is on this machine, because Chromium asks the user before a page from elsewhere may call an address here.
    """

    class Site(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(page[-1])))
            self.end_headers()
            self.wfile.write(page[-1])

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Site) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://localhost:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
