"""What a client may call its picture, and under what its content is kept. Knows nothing of names that are taken."""

import hashlib

from app.errors import ValidationFailed


def check_reserved(name: str, content: str) -> None:
    """Keep a client's name from standing where another picture's content id belongs. Raises ValidationFailed."""
    if len(name) == 64 and name != content and all(c in "0123456789abcdef" for c in name):
        what = f"{name!r} looks like a SHA-256, and is not that of this picture; use another name"
        raise ValidationFailed(f"image_id: {what}.", details=[{"where": "image_id", "what": what}])


def content_key(digest: str, *, tenant: str) -> str:
    """Under what the embedding of an upload with this SHA-256 is kept: the digest, and whose it is.

    If tenants shared one embedding, `cached` and the time of a reply would tell a client that somebody else has
    sent the picture that it holds. Two tenants with the same picture pay for it with a second encoding. A server
    without keys knows one tenant, "", whose contents are kept under the digest alone.
    """
    return f"{digest}-{hashlib.sha256(tenant.encode()).hexdigest()[:32]}" if tenant else digest
