"""Keys of calls: which Device a call goes to is decided by its key alone. Does not know which Devices there are."""

_HELD = "held:"
"""No name of a tenant has a colon, so no key of a picture begins like this."""


def of_image(image_id: str, tenant: str) -> str:
    """Return the key of a picture. A Device that is busy may pass its calls on: others load it from the folder."""
    return f"{tenant}/{image_id}"


def of_video(video_id: str, tenant: str) -> str:
    """Return the key of a video, whose upload comes in parts, and whose decoder stays open."""
    return f"{_HELD}{tenant}/video/{video_id}"


def of_track(track_id: str, tenant: str) -> str:
    """Return the key of a track, whose memories are in one Device."""
    return f"{_HELD}{tenant}/track/{track_id}"


def of_one_call(number: str) -> str:
    """Return the key of what several calls make together and leave nothing of."""
    return f"{_HELD}/{number}"


def is_held(key: str) -> bool:
    """Whether calls go to the Device of the key however busy it is, because what they need is there alone."""
    return key.startswith(_HELD)
