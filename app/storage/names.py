"""The names that a client may give its picture, and the key of its content. Does not know which names are taken."""

import hashlib

from app.codecs.deep import Stretch
from app.errors import ValidationFailed

_UNUSUAL: tuple[Stretch, ...] = ("percentile", "none")


def check_reserved(name: str, content: str, *, of: str = "image") -> None:
    """Reject a name that looks like the content id of another picture, or video. Raises ValidationFailed."""
    if len(name) == 64 and name != content and all(c in "0123456789abcdef" for c in name):
        thing, where = {"image": "picture"}.get(of, of), f"{of}_id"
        what = f"{name!r} looks like a SHA-256, but is not that of this {thing}; use another name"
        raise ValidationFailed(f"{where}: {what}.", details=[{"where": where, "what": what}])


def content_id(digest: str, stretch: Stretch) -> str:
    """Return the id of a picture without a name: the SHA-256 of its file, and how it is read if not as usual."""
    return digest if stretch == "range" else f"{digest}-{stretch}"


def stretch_of(content: str) -> Stretch:
    """Return how a content's file is read."""
    return next((stretch for stretch in _UNUSUAL if f"-{stretch}" in content), "range")


def content_key(content_id: str, *, tenant: str) -> str:
    """Return the key of an upload's embedding: the id of its content, and a hash of the tenant.

    If tenants shared one embedding, `cached` and the time of a reply would tell a client that somebody else has
    sent the same picture. The price is a second encoding when two tenants send the same picture. A server without
    API keys has one tenant, "", whose key is the id alone.
    """
    return f"{content_id}-{hashlib.sha256(tenant.encode()).hexdigest()[:32]}" if tenant else content_id
