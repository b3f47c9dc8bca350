"""Whether a client has a reply already, as If-None-Match says (RFC 9110, 13.1.2). Does not know the replies."""

from fastapi import Request


def client_has(request: Request, etag: str) -> bool:
    """Whether the request names this entity tag, weak or strong, or any."""
    named = ",".join(request.headers.getlist("if-none-match"))
    tags = [tag.strip().removeprefix("W/") for tag in named.split(",")]
    return "*" in tags or etag.removeprefix("W/") in tags
