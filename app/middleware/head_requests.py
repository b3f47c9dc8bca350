"""ASGI middleware that answers HEAD as GET without the body: monitors and load balancers probe with it.

FastAPI's routes take HEAD only where they say so. Does not know which paths answer GET.
"""

from http import HTTPStatus

from app.middleware.access import App, Message, Receive, Scope, Send


class HeadMiddleware:
    """Lets the app see GET. The headers are those of GET, Content-Length included.

    The body of an error goes on to doors/errors.py, which gives it another length; the server sends none.
    """

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self.app(scope, receive, send)
            return

        is_error = False

        async def send_without_body(message: Message) -> None:
            nonlocal is_error
            if message["type"] == "http.response.start":
                is_error = message["status"] >= HTTPStatus.BAD_REQUEST
            elif not is_error:
                message = {**message, "body": b""}
            await send(message)

        # A copy, because the server looks for HEAD in its own scope before it expects a body.
        as_get = {**scope, "method": "GET"}
        try:
            await self.app(as_get, receive, send_without_body)
        finally:
            scope.update(as_get, method="HEAD")  # what the app put into it, for the log and the metrics
