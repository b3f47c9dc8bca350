"""What a client may call its picture. Knows nothing of the names that are taken."""

from app.errors import ValidationFailed


def check_reserved(name: str, content: str) -> None:
    """Keep a client's name from standing where another picture's content id belongs. Raises ValidationFailed."""
    if len(name) == 64 and name != content and all(c in "0123456789abcdef" for c in name):
        what = f"{name!r} looks like a SHA-256, and is not that of this picture; use another name"
        raise ValidationFailed(f"image_id: {what}.", details=[{"where": "image_id", "what": what}])
