"""Refuses the endpoints of videos and tracks where SAM2_VIDEO is off. Does not know the endpoints."""

from fastapi import Request

from app.routes.state import service_of
from app.track_errors import TrackingUnavailable


async def refuse_videos_if_off(request: Request) -> None:
    """A dependency, which runs before a body is read. Raises TrackingUnavailable."""
    if service_of(request).settings.video == "off":
        raise TrackingUnavailable.switched_off()
