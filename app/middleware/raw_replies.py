"""An error as the bytes of an HTTP reply, for connections that are refused before there is a request.

Does not know why they are refused.
"""

import json
from http import HTTPStatus

from app.errors import ServiceError


def error_body(code: str, message: str) -> bytes:
    """The body of an error, in the form of all errors."""
    return json.dumps({"error": {"code": code, "message": message}}).encode()


def raw_reply(error: ServiceError) -> bytes:
    """The reply to an error, in the form of all errors. The connection is to be closed after it."""
    body = error_body(error.code, error.message)
    head = (
        f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + body
