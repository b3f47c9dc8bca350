"""The names that a client may give its picture, and the key of its content. Does not know which names are taken."""

import hashlib
import re

from app.codecs.deep import Stretch
from app.errors import ValidationFailed

_UNUSUAL: tuple[Stretch, ...] = ("percentile", "none")
_OWN_ID = re.compile(rf"[0-9a-f]{{64}}(-({'|'.join(_UNUSUAL)}|[0-9a-f]{{16}}))?")
"""Ids that are made of a file: of a picture, of a frame, and of a video, the last with a hash of its options."""


def check_reserved(name: str, own_id: str, *, of: str = "image") -> None:
    """Reject a name that looks like an id that the service makes, but is not `own_id`. Raises ValidationFailed."""
    if name != own_id and _OWN_ID.fullmatch(name):
        thing, where = {"image": "picture"}.get(of, of), f"{of}_id"
        what = f"{name!r} looks like a SHA-256, but is not the one of this {thing}; use another name"
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
